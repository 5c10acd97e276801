//! What one request may cost, checked where it is taken: before anything is proposed, and by this node's own settings.
//!
//! Apply has constant bounds of its own ([`crate::txn::bounds`]); these are never above them.

use bytes::Bytes;
use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{
    Condition, Key, MapOp, Mutation, RegisterOp, SetOp, UpdateError, Value, check_update, without_marks,
};

use crate::txn::ClientTxn;

/// Bounds of one mutation request; from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Bytes of a key.
    pub key_bytes_max: usize,
    /// Bytes of a value, encoded.
    pub value_bytes_max: usize,
    /// Levels of arrays, objects and maps within each other.
    pub depth_max: usize,
    /// Mutations of one request.
    pub ops_max: usize,
    /// Bytes of the whole request in the log.
    pub txn_bytes_max: usize,
    /// Elements named in one mutation.
    pub elements_max: usize,
}

fn at_most(what: &str, is: usize, limit: usize) -> Result<(), ApiError> {
    if is <= limit {
        return Ok(());
    }
    let message = format!("{what} is above its limit of {limit}");
    Err(ApiError::new(ErrorCode::TooLarge, message).with("limit", limit))
}

impl RequestLimits {
    /// Checks a request, takes from its updates of documents the marks that these are kept without, and returns how many bytes it
    /// takes in the log.
    pub fn admit(
        &self,
        conditions: &[(Key, Condition)],
        ops: &mut [(Key, Mutation)],
    ) -> Result<usize, ApiError> {
        at_most("the number of operations", ops.len(), self.ops_max)?;
        at_most("the number of conditions", conditions.len(), self.ops_max)?;
        let are_many = ops.len() > 1;
        for (op, (key, mutation)) in ops.iter_mut().enumerate() {
            if super::docs::is_reserved(&key.key) {
                let error = ApiError::new(
                    ErrorCode::BadKey,
                    "keys behind all others are kept for versions of documents",
                );
                return Err(if are_many { error.with("op", op) } else { error });
            }
            let checked =
                at_most("a key", key.key.len(), self.key_bytes_max).and_then(|()| self.mutation(mutation, 0));
            checked.map_err(|e| if are_many { e.with("op", op) } else { e })?;
        }
        for (_, condition) in conditions {
            if let Condition::Value(value) | Condition::Contains(value) = condition {
                self.depth(value, 0)?;
            }
        }
        let bytes = ClientTxn::encoded_bytes(conditions, ops)
            .map_err(|e| ApiError::new(ErrorCode::BadValue, e.to_string()))?;
        at_most("a transaction", bytes, self.txn_bytes_max)?;
        Ok(bytes)
    }

    fn mutation(&self, mutation: &mut Mutation, depth: usize) -> Result<(), ApiError> {
        at_most("the depth", depth, self.depth_max)?;
        match mutation {
            Mutation::Register(RegisterOp::Set(value)) | Mutation::MvRegister(RegisterOp::Set(value)) => {
                self.value(value, depth)
            }
            Mutation::Set(op) | Mutation::RwSet(op) => match op {
                SetOp::Add(value) | SetOp::Remove(value) => self.value(value, depth),
                SetOp::AddAll(values) | SetOp::RemoveAll(values) => {
                    at_most("the number of elements", values.len(), self.elements_max)?;
                    values.iter().try_for_each(|value| self.value(value, depth))
                }
                SetOp::Clear => Ok(()),
            },
            Mutation::Doc(op) => {
                at_most("the number of updates", op.updates().len(), self.elements_max)?;
                op.updates_mut().iter_mut().try_for_each(|update| self.update(update))
            }
            Mutation::Map(MapOp::Update { mutation, .. }) => self.mutation(mutation, depth + 1),
            _ => Ok(()),
        }
    }

    /// Decodes an update of a document, since apply takes it for what it is said to be.
    fn update(&self, update: &mut Bytes) -> Result<(), ApiError> {
        at_most("an update", update.len(), self.value_bytes_max)?;
        let bad = |e: UpdateError| ApiError::new(ErrorCode::BadValue, e.to_string());
        check_update(update).map_err(bad)?;
        if let Some(unmarked) = without_marks(update).map_err(bad)? {
            *update = unmarked.update.into();
        }
        Ok(())
    }

    fn value(&self, value: &Value, depth: usize) -> Result<(), ApiError> {
        self.depth(value, depth)?;
        // Numbers and booleans need no measuring.
        match value {
            Value::Str(_) | Value::Bytes(_) | Value::Array(_) | Value::Map(_) => {
                at_most("a value", value.to_bytes().len(), self.value_bytes_max)
            }
            _ => Ok(()),
        }
    }

    /// Checks how deep a value nests.
    pub fn depth(&self, value: &Value, depth: usize) -> Result<(), ApiError> {
        at_most("the depth", depth, self.depth_max)?;
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.depth(item, depth + 1)),
            Value::Map(fields) => fields.values().try_for_each(|item| self.depth(item, depth + 1)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_crdt::{CounterOp, DocOp};

    const LIMITS: RequestLimits = RequestLimits {
        key_bytes_max: 8,
        value_bytes_max: 64,
        depth_max: 2,
        ops_max: 3,
        txn_bytes_max: 1000,
        elements_max: 4,
    };

    fn refused(ops: &[(&str, Mutation)]) -> Option<(ErrorCode, Option<u64>)> {
        let mut ops: Vec<_> =
            ops.iter().map(|(k, m)| (Key::new("default", *k).expect("valid"), m.clone())).collect();
        let error = LIMITS.admit(&[], &mut ops).err()?;
        Some((error.code, error.details.get("limit").and_then(serde_json::Value::as_u64)))
    }

    fn set(value: Value) -> Mutation {
        Mutation::Register(RegisterOp::Set(value))
    }

    fn nested(levels: usize) -> Value {
        (0..levels).fold(Value::Int(1), |inner, _| Value::Array(vec![inner]))
    }

    #[test]
    fn each_bound_is_told_with_its_limit() {
        let add = Mutation::Counter(CounterOp::Add(1));
        assert_eq!(refused(&[("k", add.clone())]), None);
        let too_large = |limit| Some((ErrorCode::TooLarge, Some(limit)));
        assert_eq!(refused(&[("123456789", add.clone())]), too_large(8));
        assert_eq!(refused(&vec![("k", add); 4]), too_large(3));
        assert_eq!(refused(&[("k", set(Value::Str("x".repeat(62))))]), too_large(64));
        assert_eq!(refused(&[("k", set(nested(2)))]), None);
        assert_eq!(refused(&[("k", set(nested(3)))]), too_large(2));
        let update = MapOp::Update { field: "f".into(), mutation: Box::new(set(nested(2))) };
        assert_eq!(refused(&[("k", Mutation::Map(update))]), too_large(2));
        let elements = (0..5).map(Value::Int).collect();
        assert_eq!(refused(&[("k", Mutation::RwSet(SetOp::RemoveAll(elements)))]), too_large(4));
        let update = |bytes: &[u8]| Mutation::Doc(DocOp::Update(bytes.to_vec().into()));
        assert_eq!(refused(&[("k", update(&[0, 0]))]), None);
        assert_eq!(refused(&[("k", update(&[0; 65]))]), too_large(64));
        assert_eq!(refused(&[("k", update(&[1, 1]))]), Some((ErrorCode::BadValue, None)));
        let all = DocOp::UpdateAll(vec![vec![0u8, 0].into(); 5]);
        assert_eq!(refused(&[("k", Mutation::Doc(all))]), too_large(4));
    }

    #[test]
    fn a_request_that_grows_in_the_log_is_measured_there() {
        let mut ops = vec![(Key::new("s".repeat(64), "k").expect("valid"), Mutation::Delete(None)); 3];
        let wide = RequestLimits { txn_bytes_max: 300, ..LIMITS };
        assert_eq!(wide.admit(&[], &mut ops).map_err(|e| e.code), Err(ErrorCode::TooLarge));
    }
}
