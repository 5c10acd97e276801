//! Mutations, preconditions and transactions in JSON.
//!
//! Every object is read field by field; a field that nothing asked for is `unknown_field`, so that a misspelt option
//! never silently does nothing.

use meridian_crdt::{
    Condition, CounterOp, FlagOp, Key, MapOp, Mutation, RegisterOp, SetOp, Type, Value, Version,
};
use serde_json::{Map, Value as Json};

use super::error::{ApiError, ErrorCode};
use super::json::to_value;

/// How many operations one transaction may have.
pub const TXN_OPS_MAX: usize = 10_000;
/// How deep `map update` may nest; the same bound as the types' own.
const NESTING_MAX: usize = 8;

/// A transaction as asked for: conditions that must all hold, then mutations in order.
#[derive(Clone, Debug, PartialEq)]
pub struct TxnRequest {
    /// What must hold, all against the state before the transaction.
    pub conditions: Vec<(Key, Condition)>,
    /// What is done; an operation sees those before it.
    pub ops: Vec<(Key, Mutation)>,
}

/// The fields of one JSON object, taken one by one.
struct Fields<'a> {
    what: &'a str,
    fields: Map<String, Json>,
}

fn bad(message: String) -> ApiError {
    ApiError::new(ErrorCode::BadValue, message)
}

impl<'a> Fields<'a> {
    fn new(what: &'a str, json: Json) -> Result<Self, ApiError> {
        match json {
            Json::Object(fields) => Ok(Self { what, fields }),
            _ => Err(bad(format!("{what} must be a JSON object"))),
        }
    }

    fn take(&mut self, name: &str) -> Result<Json, ApiError> {
        self.fields.remove(name).ok_or_else(|| bad(format!("{} lacks the field {name:?}", self.what)))
    }

    fn text(&mut self, name: &str) -> Result<String, ApiError> {
        match self.take(name)? {
            Json::String(text) => Ok(text),
            _ => Err(bad(format!("the field {name:?} of {} must be a string", self.what))),
        }
    }

    fn value(&mut self, name: &str) -> Result<Value, ApiError> {
        to_value(&self.take(name)?)
    }

    fn values(&mut self, name: &str) -> Result<Vec<Value>, ApiError> {
        match self.take(name)? {
            Json::Array(items) => items.iter().map(to_value).collect(),
            _ => Err(bad(format!("the field {name:?} of {} must be an array", self.what))),
        }
    }

    fn integer(&mut self, name: &str) -> Result<i64, ApiError> {
        self.take(name)?.as_i64().ok_or_else(|| {
            bad(format!("the field {name:?} of {} must be an integer of at most 64 bits", self.what))
        })
    }

    fn finish(self) -> Result<(), ApiError> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => Err(ApiError::new(
                ErrorCode::UnknownField,
                format!("{} has no field {:?}", self.what, name.chars().take(80).collect::<String>()),
            )),
        }
    }
}

/// Reads a whole mutation: `{"type":"counter","op":"add","by":5}`.
pub fn mutation(json: Json) -> Result<Mutation, ApiError> {
    let mut fields = Fields::new("a mutation", json)?;
    let mutation = take_mutation(&mut fields, 0)?;
    fields.finish()?;
    Ok(mutation)
}

fn take_mutation(fields: &mut Fields<'_>, depth: usize) -> Result<Mutation, ApiError> {
    if depth > NESTING_MAX {
        return Err(bad(format!("maps nest at most {NESTING_MAX} deep")));
    }
    let name = fields.text("type")?;
    let ty = Type::from_name(&name).ok_or_else(|| {
        ApiError::new(
            ErrorCode::UnknownType,
            format!("{:?} is not a type", name.chars().take(80).collect::<String>()),
        )
    })?;
    let op = fields.text("op")?;
    if op == "delete" {
        return Ok(Mutation::Delete(Some(ty)));
    }
    let unknown = || {
        let shown: String = op.chars().take(80).collect();
        ApiError::new(ErrorCode::UnknownOp, format!("the type {} has no operation {shown:?}", ty.name()))
    };
    Ok(match ty {
        Type::Register => Mutation::Register(register_op(&op, fields)?.ok_or_else(unknown)?),
        Type::MvRegister => Mutation::MvRegister(register_op(&op, fields)?.ok_or_else(unknown)?),
        Type::Counter => Mutation::Counter(match op.as_str() {
            "add" => CounterOp::Add(fields.integer("by")?),
            "reset" => CounterOp::Reset,
            _ => return Err(unknown()),
        }),
        Type::Flag => Mutation::Flag(flag_op(&op).ok_or_else(unknown)?),
        Type::DwFlag => Mutation::DwFlag(flag_op(&op).ok_or_else(unknown)?),
        Type::Set => Mutation::Set(set_op(&op, fields)?.ok_or_else(unknown)?),
        Type::RwSet => Mutation::RwSet(set_op(&op, fields)?.ok_or_else(unknown)?),
        Type::Map => Mutation::Map(map_op(&op, fields, depth)?.ok_or_else(unknown)?),
    })
}

fn register_op(op: &str, fields: &mut Fields<'_>) -> Result<Option<RegisterOp>, ApiError> {
    Ok(match op {
        "set" => Some(RegisterOp::Set(fields.value("value")?)),
        "clear" => Some(RegisterOp::Clear),
        _ => None,
    })
}

fn flag_op(op: &str) -> Option<FlagOp> {
    match op {
        "enable" => Some(FlagOp::Enable),
        "disable" => Some(FlagOp::Disable),
        _ => None,
    }
}

fn set_op(op: &str, fields: &mut Fields<'_>) -> Result<Option<SetOp>, ApiError> {
    Ok(match op {
        "add" => Some(SetOp::Add(fields.value("element")?)),
        "remove" => Some(SetOp::Remove(fields.value("element")?)),
        "add_all" => Some(SetOp::AddAll(fields.values("elements")?)),
        "remove_all" => Some(SetOp::RemoveAll(fields.values("elements")?)),
        "clear" => Some(SetOp::Clear),
        _ => None,
    })
}

fn map_op(op: &str, fields: &mut Fields<'_>, depth: usize) -> Result<Option<MapOp>, ApiError> {
    Ok(match op {
        "update" => {
            let field = fields.text("field")?;
            let mut nested = Fields::new("do", fields.take("do")?)?;
            let mutation = Box::new(take_mutation(&mut nested, depth + 1)?);
            nested.finish()?;
            Some(MapOp::Update { field, mutation })
        }
        "remove" => Some(MapOp::Remove { field: fields.text("field")? }),
        "clear" => Some(MapOp::Clear),
        _ => None,
    })
}

/// Checks a space and a key.
pub fn key(space: &str, key: &str) -> Result<Key, ApiError> {
    Key::new(space, key).map_err(|e| ApiError::new(ErrorCode::BadKey, e.to_string()))
}

/// Reads a transaction in `space`: `{"if":[..],"ops":[..]}`.
pub fn txn(space: &str, json: Json) -> Result<TxnRequest, ApiError> {
    let mut fields = Fields::new("a transaction", json)?;
    let conditions = match fields.fields.remove("if") {
        None => Vec::new(),
        Some(Json::Array(items)) => {
            items.into_iter().map(|item| condition(space, item)).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(bad("the field \"if\" must be an array".into())),
    };
    let Json::Array(ops) = fields.take("ops")? else {
        return Err(bad("the field \"ops\" must be an array".into()));
    };
    fields.finish()?;
    let count = ops.len() + conditions.len();
    if count > TXN_OPS_MAX {
        let message =
            format!("a transaction has at most {TXN_OPS_MAX} operations and conditions, this one {count}");
        return Err(ApiError::new(ErrorCode::TooLarge, message).with("limit", TXN_OPS_MAX));
    }
    if ops.is_empty() {
        return Err(bad("a transaction needs at least one operation".into()));
    }
    let ops = ops
        .into_iter()
        .enumerate()
        .map(|(i, op)| txn_op(space, op).map_err(|e| e.with("op", i)))
        .collect::<Result<_, _>>()?;
    Ok(TxnRequest { conditions, ops })
}

fn txn_op(space: &str, json: Json) -> Result<(Key, Mutation), ApiError> {
    let mut fields = Fields::new("an operation", json)?;
    let key = key(space, &fields.text("key")?)?;
    let untyped_delete =
        !fields.fields.contains_key("type") && fields.fields.get("op").is_some_and(|op| op == "delete");
    let mutation = if untyped_delete {
        fields.take("op")?;
        Mutation::Delete(None)
    } else {
        take_mutation(&mut fields, 0)?
    };
    fields.finish()?;
    Ok((key, mutation))
}

fn condition(space: &str, json: Json) -> Result<(Key, Condition), ApiError> {
    let mut fields = Fields::new("a condition", json)?;
    let key = key(space, &fields.text("key")?)?;
    let name = fields.fields.keys().next().cloned();
    let must_be_true = |fields: &mut Fields<'_>, name: &str| match fields.take(name)? {
        Json::Bool(true) => Ok(()),
        _ => Err(bad(format!("the condition {name:?} takes true"))),
    };
    let condition = match name.as_deref() {
        Some("absent") => must_be_true(&mut fields, "absent").map(|()| Condition::Absent)?,
        Some("exists") => must_be_true(&mut fields, "exists").map(|()| Condition::Exists)?,
        Some("version") => Condition::Version(version(&fields.text("version")?)?),
        Some("value") => Condition::Value(fields.value("value")?),
        Some("contains") => Condition::Contains(fields.value("contains")?),
        Some(other) => {
            let shown: String = other.chars().take(80).collect();
            return Err(ApiError::new(
                ErrorCode::UnknownField,
                format!("a condition has no field {shown:?}"),
            ));
        }
        None => return Err(bad("a condition needs one of absent, exists, version, value, contains".into())),
    };
    fields.finish()?;
    Ok((key, condition))
}

/// Reads the text form of a version.
pub fn version(text: &str) -> Result<Version, ApiError> {
    Version::parse(text)
        .ok_or_else(|| bad(format!("{:?} is not a version", text.chars().take(80).collect::<String>())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn mutations_are_read_as_documented() {
        let nested = json!({"type":"map","op":"update","field":"name",
            "do":{"type":"register","op":"set","value":"Ann"}});
        let inner = Mutation::Register(RegisterOp::Set(Value::Str("Ann".into())));
        let update = MapOp::Update { field: "name".into(), mutation: Box::new(inner) };
        assert_eq!(mutation(nested), Ok(Mutation::Map(update)));
        assert_eq!(mutation(json!({"type":"set","op":"delete"})), Ok(Mutation::Delete(Some(Type::Set))));
    }

    #[test]
    fn each_mistake_has_its_code() {
        let code = |json| mutation(json).expect_err("refused").code;
        assert_eq!(code(json!([])), ErrorCode::BadValue);
        assert_eq!(code(json!({"type":"nope","op":"add"})), ErrorCode::UnknownType);
        assert_eq!(code(json!({"type":"counter","op":"set"})), ErrorCode::UnknownOp);
        assert_eq!(code(json!({"type":"counter","op":"add","by":1,"of":2})), ErrorCode::UnknownField);
        assert_eq!(code(json!({"type":"counter","op":"add","by":1.5})), ErrorCode::BadValue);
        assert_eq!(code(json!({"type":"counter","op":"add"})), ErrorCode::BadValue);
        let mut deep = json!({"type":"flag","op":"enable"});
        for _ in 0..12 {
            deep = json!({"type":"map","op":"update","field":"f","do":deep});
        }
        assert_eq!(code(deep), ErrorCode::BadValue);
    }

    #[test]
    fn transactions_are_read_as_documented() {
        let request = txn(
            "default",
            json!({"if":[{"key":"a","absent":true},{"key":"b","contains":3}],
                   "ops":[{"key":"a","type":"counter","op":"add","by":1},{"key":"b","op":"delete"}]}),
        )
        .expect("valid");
        assert_eq!(request.conditions.len(), 2);
        assert_eq!(request.ops[1].1, Mutation::Delete(None));
        let code = |json| txn("default", json).expect_err("refused").code;
        assert_eq!(code(json!({"ops":[]})), ErrorCode::BadValue);
        assert_eq!(code(json!({"ops":[{"key":"","op":"delete"}]})), ErrorCode::BadKey);
        assert_eq!(
            code(json!({"if":[{"key":"a","like":1}],"ops":[{"key":"a","op":"delete"}]})),
            ErrorCode::UnknownField
        );
        assert_eq!(
            code(json!({"if":[{"key":"a","absent":false}],"ops":[{"key":"a","op":"delete"}]})),
            ErrorCode::BadValue
        );
    }
}
