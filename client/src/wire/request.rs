//! Mutations, preconditions and transactions, as JSON and as MessagePack say them: the same words in both.
//!
//! Every object is read field by field; a field that nothing asked for is `unknown_field`, so that a misspelt option
//! never silently does nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_crdt::{
    Condition, CounterOp, DocOp, Dot, FlagOp, Key, KeyError, MapOp, Mutation, RegisterOp, SetOp, Type, Value,
    Version,
};
use serde_json::Value as Json;

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

/// What a request is read from: a tree of JSON or of MessagePack.
pub trait Document: Sized {
    /// The name of a field.
    type Name: AsRef<str>;
    /// The fields of an object, no name twice.
    type Fields: IntoIterator<Item = (Self::Name, Self)>;

    /// The fields, if it is an object.
    fn into_fields(self) -> Option<Self::Fields>;
    /// The items, if it is an array.
    fn into_items(self) -> Option<Vec<Self>>;
    /// The text, if it is one.
    fn as_text(&self) -> Option<&str>;
    /// The number, if it is an integer of at most 64 signed bits.
    fn as_integer(&self) -> Option<i64>;
    /// The boolean, if it is one.
    fn as_boolean(&self) -> Option<bool>;
    /// The value that it stands for.
    fn into_value(self) -> Result<Value, ApiError>;
}

impl Document for Json {
    type Name = String;
    type Fields = serde_json::Map<String, Json>;

    fn into_fields(self) -> Option<Self::Fields> {
        match self {
            Json::Object(fields) => Some(fields),
            _ => None,
        }
    }

    fn into_items(self) -> Option<Vec<Self>> {
        match self {
            Json::Array(items) => Some(items),
            _ => None,
        }
    }

    fn as_text(&self) -> Option<&str> {
        self.as_str()
    }

    fn as_integer(&self) -> Option<i64> {
        self.as_i64()
    }

    fn as_boolean(&self) -> Option<bool> {
        self.as_bool()
    }

    fn into_value(self) -> Result<Value, ApiError> {
        to_value(&self)
    }
}

impl Document for Value {
    type Name = String;
    type Fields = BTreeMap<String, Value>;

    fn into_fields(self) -> Option<Self::Fields> {
        match self {
            Value::Map(fields) => Some(fields),
            _ => None,
        }
    }

    fn into_items(self) -> Option<Vec<Self>> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    fn as_text(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    fn as_integer(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    fn as_boolean(&self) -> Option<bool> {
        match self {
            Value::Bool(on) => Some(*on),
            _ => None,
        }
    }

    fn into_value(self) -> Result<Value, ApiError> {
        if self.is_storable() { Ok(self) } else { Err(bad("the value is nested too deeply".into())) }
    }
}

/// The fields of one object, taken one by one. They are few: one that is wanted is searched for.
pub struct Fields<'a, D: Document> {
    what: &'a str,
    fields: Vec<(D::Name, D)>,
    /// The marks of all their names, so that most fields that are not there are not looked for.
    marks: u64,
}

/// One bit of 64: of the protocol's names hardly two have the same. Of a name in the code the compiler knows it.
#[inline(always)]
const fn mark(name: &str) -> u64 {
    match name.as_bytes() {
        [first, .., last] => {
            let sum = first.wrapping_mul(7).wrapping_add(last.wrapping_mul(8));
            1 << (sum.wrapping_add((name.len() as u8).wrapping_mul(11)) & 63)
        }
        _ => 1,
    }
}

fn bad(message: String) -> ApiError {
    ApiError::new(ErrorCode::BadValue, message)
}

impl<'a, D: Document> Fields<'a, D> {
    /// The fields of `document`, which errors call `what`.
    pub fn new(what: &'a str, document: D) -> Result<Self, ApiError> {
        let fields = document.into_fields().ok_or_else(|| bad(format!("{what} must be an object")))?;
        let fields: Vec<_> = fields.into_iter().collect();
        let marks = fields.iter().fold(0, |marks, (name, _)| marks | mark(name.as_ref()));
        Ok(Self { what, fields, marks })
    }

    fn get(&self, name: &str) -> Option<&D> {
        self.fields.iter().find(|(n, _)| n.as_ref() == name).map(|(_, field)| field)
    }

    /// Takes a field that need not be there.
    #[inline]
    pub fn take_optional(&mut self, name: &str) -> Option<D> {
        if self.marks & mark(name) == 0 { None } else { self.find_and_take(name) }
    }

    fn find_and_take(&mut self, name: &str) -> Option<D> {
        let at = self.fields.iter().position(|(n, _)| n.as_ref() == name)?;
        Some(self.fields.swap_remove(at).1)
    }

    /// Takes a field.
    pub fn take(&mut self, name: &str) -> Result<D, ApiError> {
        self.take_optional(name).ok_or_else(|| bad(format!("{} lacks the field {name:?}", self.what)))
    }

    /// Takes a text and reads it where it stands.
    pub fn read_text<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let field = self.take(name)?;
        read(field.as_text().ok_or_else(|| self.not_a_text(name))?)
    }

    fn not_a_text(&self, name: &str) -> ApiError {
        bad(format!("the field {name:?} of {} must be a string", self.what))
    }

    /// Takes a text.
    pub fn text(&mut self, name: &str) -> Result<String, ApiError> {
        self.read_text(name, |text| Ok(text.to_owned()))
    }

    /// Takes a value.
    pub fn value(&mut self, name: &str) -> Result<Value, ApiError> {
        self.take(name)?.into_value()
    }

    /// Takes an array.
    pub fn items(&mut self, name: &str) -> Result<Vec<D>, ApiError> {
        let items = self.take(name)?.into_items();
        items.ok_or_else(|| bad(format!("the field {name:?} of {} must be an array", self.what)))
    }

    fn values(&mut self, name: &str) -> Result<Vec<Value>, ApiError> {
        self.items(name)?.into_iter().map(D::into_value).collect()
    }

    /// Takes an integer.
    pub fn integer(&mut self, name: &str) -> Result<i64, ApiError> {
        self.take(name)?.as_integer().ok_or_else(|| {
            bad(format!("the field {name:?} of {} must be an integer of at most 64 bits", self.what))
        })
    }

    /// Refuses fields that nobody took.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.fields.first() {
            None => Ok(()),
            Some((name, _)) => {
                let shown: String = name.as_ref().chars().take(80).collect();
                Err(ApiError::new(ErrorCode::UnknownField, format!("{} has no field {shown:?}", self.what)))
            }
        }
    }
}

/// Reads a whole mutation: `{"type":"counter","op":"add","by":5}`.
pub fn mutation<D: Document>(document: D) -> Result<Mutation, ApiError> {
    let mut fields = Fields::new("a mutation", document)?;
    let mutation = take_mutation(&mut fields, 0)?;
    fields.finish()?;
    Ok(mutation)
}

fn take_mutation<D: Document>(fields: &mut Fields<'_, D>, depth: usize) -> Result<Mutation, ApiError> {
    if depth > NESTING_MAX {
        return Err(bad(format!("maps nest at most {NESTING_MAX} deep")));
    }
    let ty = fields.read_text("type", |name| {
        Type::from_name(name).ok_or_else(|| {
            let shown: String = name.chars().take(80).collect();
            ApiError::new(ErrorCode::UnknownType, format!("{shown:?} is not a type"))
        })
    })?;
    let op = fields.take("op")?;
    let op = op.as_text().ok_or_else(|| fields.not_a_text("op"))?;
    if op == "delete" {
        return Ok(Mutation::Delete(Some(ty)));
    }
    let unknown = || {
        let shown: String = op.chars().take(80).collect();
        ApiError::new(ErrorCode::UnknownOp, format!("the type {} has no operation {shown:?}", ty.name()))
    };
    Ok(match ty {
        Type::Register => Mutation::Register(register_op(op, fields)?.ok_or_else(unknown)?),
        Type::MvRegister => Mutation::MvRegister(register_op(op, fields)?.ok_or_else(unknown)?),
        Type::Counter => Mutation::Counter(match op {
            "add" => CounterOp::Add(fields.integer("by")?),
            "reset" => CounterOp::Reset,
            _ => return Err(unknown()),
        }),
        Type::Flag => Mutation::Flag(flag_op(op).ok_or_else(unknown)?),
        Type::DwFlag => Mutation::DwFlag(flag_op(op).ok_or_else(unknown)?),
        Type::Set => Mutation::Set(set_op(op, fields)?.ok_or_else(unknown)?),
        Type::RwSet => Mutation::RwSet(set_op(op, fields)?.ok_or_else(unknown)?),
        Type::Map => Mutation::Map(map_op(op, fields, depth)?.ok_or_else(unknown)?),
        Type::Doc => Mutation::Doc(doc_op(op, fields)?.ok_or_else(unknown)?),
    })
}

fn register_op<D: Document>(op: &str, fields: &mut Fields<'_, D>) -> Result<Option<RegisterOp>, ApiError> {
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

fn set_op<D: Document>(op: &str, fields: &mut Fields<'_, D>) -> Result<Option<SetOp>, ApiError> {
    Ok(match op {
        "add" => Some(SetOp::Add(fields.value("element")?)),
        "remove" => Some(SetOp::Remove(fields.value("element")?)),
        "add_all" => Some(SetOp::AddAll(fields.values("elements")?)),
        "remove_all" => Some(SetOp::RemoveAll(fields.values("elements")?)),
        "clear" => Some(SetOp::Clear),
        _ => None,
    })
}

fn doc_op<D: Document>(op: &str, fields: &mut Fields<'_, D>) -> Result<Option<DocOp>, ApiError> {
    Ok(match op {
        "update" => Some(DocOp::Update(update(fields.value("update")?)?)),
        "update_all" => {
            let updates = fields.values("updates")?;
            Some(DocOp::UpdateAll(updates.into_iter().map(update).collect::<Result<_, _>>()?))
        }
        _ => None,
    })
}

fn update(value: Value) -> Result<Bytes, ApiError> {
    match value {
        Value::Bytes(bytes) => Ok(bytes.into()),
        _ => Err(bad("an update of a document must be bytes".into())),
    }
}

fn map_op<D: Document>(
    op: &str,
    fields: &mut Fields<'_, D>,
    depth: usize,
) -> Result<Option<MapOp>, ApiError> {
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
    Key::new(space, key).map_err(bad_key)
}

/// Checks a space.
pub fn check_space(space: &str) -> Result<(), ApiError> {
    meridian_crdt::check_space(space).map_err(bad_key)
}

fn bad_key(error: KeyError) -> ApiError {
    ApiError::new(ErrorCode::BadKey, error.to_string())
}

/// Reads a transaction in `space`: `{"if":[..],"ops":[..]}`.
pub fn txn<D: Document>(space: &str, document: D) -> Result<TxnRequest, ApiError> {
    let mut fields = Fields::new("a transaction", document)?;
    let request = take_txn(space, &mut fields)?;
    fields.finish()?;
    Ok(request)
}

/// Takes `if` and `ops`, and leaves the other fields to the caller.
pub fn take_txn<D: Document>(space: &str, fields: &mut Fields<'_, D>) -> Result<TxnRequest, ApiError> {
    let conditions = if fields.get("if").is_some() { fields.items("if")? } else { Vec::new() };
    let conditions: Vec<_> =
        conditions.into_iter().map(|item| condition(space, item)).collect::<Result<_, _>>()?;
    let ops = fields.items("ops")?;
    let count = ops.len() + conditions.len();
    if count > TXN_OPS_MAX {
        let message =
            format!("a transaction has at most {TXN_OPS_MAX} operations and conditions, this one {count}");
        return Err(ApiError::new(ErrorCode::TooLarge, message).with("limit", TXN_OPS_MAX));
    }
    if ops.is_empty() {
        return Err(bad("a transaction needs at least one operation".into()));
    }
    Ok(TxnRequest { conditions, ops: operations(space, ops)? })
}

/// Reads the operations of a transaction, each with its key.
pub fn operations<D: Document>(space: &str, ops: Vec<D>) -> Result<Vec<(Key, Mutation)>, ApiError> {
    let read = |(i, op)| operation(space, op).map_err(|e| e.with("op", i));
    ops.into_iter().enumerate().map(read).collect()
}

fn operation<D: Document>(space: &str, document: D) -> Result<(Key, Mutation), ApiError> {
    let mut fields = Fields::new("an operation", document)?;
    let key = fields.read_text("key", |name| key(space, name))?;
    let mutation = take_any_mutation(&mut fields)?;
    fields.finish()?;
    Ok((key, mutation))
}

/// Reads a mutation, or the delete of whatever type is there, which has no `type`.
pub fn any_mutation<D: Document>(document: D) -> Result<Mutation, ApiError> {
    let mut fields = Fields::new("a mutation", document)?;
    let mutation = take_any_mutation(&mut fields)?;
    fields.finish()?;
    Ok(mutation)
}

fn take_any_mutation<D: Document>(fields: &mut Fields<'_, D>) -> Result<Mutation, ApiError> {
    let is_delete = fields.get("op").and_then(D::as_text) == Some("delete");
    if is_delete && fields.get("type").is_none() {
        fields.take("op")?;
        return Ok(Mutation::Delete(None));
    }
    take_mutation(fields, 0)
}

fn condition<D: Document>(space: &str, document: D) -> Result<(Key, Condition), ApiError> {
    let mut fields = Fields::new("a condition", document)?;
    let key = fields.read_text("key", |name| key(space, name))?;
    let name = fields.fields.first().map(|(name, _)| name.as_ref().to_owned());
    let must_be_true = |fields: &mut Fields<'_, D>, name: &str| match fields.take(name)?.as_boolean() {
        Some(true) => Ok(()),
        _ => Err(bad(format!("the condition {name:?} takes true"))),
    };
    let condition = match name.as_deref() {
        Some("absent") => must_be_true(&mut fields, "absent").map(|()| Condition::Absent)?,
        Some("exists") => must_be_true(&mut fields, "exists").map(|()| Condition::Exists)?,
        Some("version") => Condition::Version(fields.read_text("version", version)?),
        Some("value") => Condition::Value(fields.value("value")?),
        Some("contains") => Condition::Contains(fields.value("contains")?),
        Some("incarnations") => Condition::Incarnations(dots(&fields.value("incarnations")?)?),
        Some(other) => {
            let shown: String = other.chars().take(80).collect();
            return Err(ApiError::new(
                ErrorCode::UnknownField,
                format!("a condition has no field {shown:?}"),
            ));
        }
        None => {
            return Err(bad(
                "a condition needs one of absent, exists, version, value, contains, incarnations".into(),
            ));
        }
    };
    fields.finish()?;
    Ok((key, condition))
}

fn dots(value: &Value) -> Result<Vec<Dot>, ApiError> {
    let dot = |name: &Value| match name {
        Value::Str(name) => name.parse().map_err(|error| bad(format!("incarnations: {error}"))),
        _ => Err(bad("incarnations are named by texts".into())),
    };
    match value {
        Value::Array(names) => names.iter().map(dot).collect(),
        _ => Err(bad("incarnations is an array of the names of all that must be there".into())),
    }
}

/// Reads the text form of a version.
pub fn version(text: &str) -> Result<Version, ApiError> {
    Version::parse(text)
        .ok_or_else(|| bad(format!("{:?} is not a version", text.chars().take(80).collect::<String>())))
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> BTreeMap<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn bytes(update: &Bytes) -> Value {
    Value::Bytes(update.to_vec())
}

fn text(text: &str) -> Value {
    Value::Str(text.to_owned())
}

/// What [`mutation`] reads: `type`, `op` and the fields of the operation. A delete of whatever type is there has no
/// `type`, which only transactions take.
pub fn mutation_fields(mutation: &Mutation) -> BTreeMap<String, Value> {
    let (op, mut fields) = match mutation {
        Mutation::Register(op) | Mutation::MvRegister(op) => match op {
            RegisterOp::Set(value) => ("set", object([("value", value.clone())])),
            RegisterOp::Clear => ("clear", object([])),
        },
        Mutation::Counter(CounterOp::Add(by)) => ("add", object([("by", Value::Int(*by))])),
        Mutation::Counter(CounterOp::Reset) => ("reset", object([])),
        Mutation::Flag(FlagOp::Enable) | Mutation::DwFlag(FlagOp::Enable) => ("enable", object([])),
        Mutation::Flag(FlagOp::Disable) | Mutation::DwFlag(FlagOp::Disable) => ("disable", object([])),
        Mutation::Set(op) | Mutation::RwSet(op) => match op {
            SetOp::Add(element) => ("add", object([("element", element.clone())])),
            SetOp::Remove(element) => ("remove", object([("element", element.clone())])),
            SetOp::AddAll(all) => ("add_all", object([("elements", Value::Array(all.clone()))])),
            SetOp::RemoveAll(all) => ("remove_all", object([("elements", Value::Array(all.clone()))])),
            SetOp::Clear => ("clear", object([])),
        },
        Mutation::Map(MapOp::Update { field, mutation }) => {
            let nested = Value::Map(mutation_fields(mutation));
            ("update", object([("field", text(field)), ("do", nested)]))
        }
        Mutation::Map(MapOp::Remove { field }) => ("remove", object([("field", text(field))])),
        Mutation::Map(MapOp::Clear) => ("clear", object([])),
        Mutation::Doc(DocOp::Update(update)) => ("update", object([("update", bytes(update))])),
        Mutation::Doc(DocOp::UpdateEach(updates) | DocOp::UpdateAll(updates)) => {
            ("update_all", object([("updates", Value::Array(updates.iter().map(bytes).collect()))]))
        }
        Mutation::Delete(_) => ("delete", object([])),
    };
    fields.insert("op".to_owned(), text(op));
    if let Some(ty) = mutation.ty() {
        fields.insert("type".to_owned(), text(ty.name()));
    }
    fields
}

/// What [`operations`] reads.
pub fn operations_value(ops: &[(Key, Mutation)]) -> Value {
    let one = |(key, mutation): &(Key, Mutation)| {
        let mut fields = mutation_fields(mutation);
        fields.insert("key".to_owned(), text(&key.key));
        Value::Map(fields)
    };
    Value::Array(ops.iter().map(one).collect())
}

/// What [`take_txn`] reads as `if`.
pub fn conditions_value(conditions: &[(Key, Condition)]) -> Value {
    let one = |(key, condition): &(Key, Condition)| {
        let (name, value) = match condition {
            Condition::Absent => ("absent", Value::Bool(true)),
            Condition::Exists => ("exists", Value::Bool(true)),
            Condition::Version(version) => ("version", Value::Str(version.to_string())),
            Condition::Value(value) => ("value", value.clone()),
            Condition::Contains(value) => ("contains", value.clone()),
            Condition::Incarnations(dots) => {
                let dots = dots.iter().map(|dot| text(&dot.to_string()));
                ("incarnations", Value::Array(dots.collect()))
            }
        };
        Value::Map(object([("key", text(&key.key)), (name, value)]))
    };
    Value::Array(conditions.iter().map(one).collect())
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
