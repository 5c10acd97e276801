//! What a txn did to a key, in JSON: the mutations of [`request`](super::request), written.

use bytes::Bytes;
use meridian_crdt::{CounterOp, DocOp, FlagOp, MapOp, Mutation, RegisterOp, SetOp, Type, Value};
use serde_json::{Map, Value as Json};

use super::json::from_value;

type Fields = Map<String, Json>;

/// The mutation as [`request::mutation`](super::request::mutation) reads it: `{"type":"counter","op":"add","by":5}`. A
/// delete of any type has no `type`.
pub fn mutation_json(mutation: &Mutation) -> Json {
    let mut fields = Fields::new();
    if let Some(ty) = mutation.ty() {
        fields.insert("type".into(), ty.name().into());
    }
    put_op(&mut fields, mutation);
    Json::Object(fields)
}

/// The mutations of one key in order, for a reader who is told `shown`, the type of the last one, beside them: only a
/// mutation of another type names its own.
pub fn ops_json(shown: Option<Type>, ops: &[Mutation]) -> Json {
    let op = |mutation: &Mutation| {
        let mut fields = Fields::new();
        if let Some(ty) = mutation.ty().filter(|ty| Some(*ty) != shown) {
            fields.insert("type".into(), ty.name().into());
        }
        put_op(&mut fields, mutation);
        Json::Object(fields)
    };
    Json::Array(ops.iter().map(op).collect())
}

fn put_op(fields: &mut Fields, mutation: &Mutation) {
    let op = match mutation {
        Mutation::Register(op) | Mutation::MvRegister(op) => match op {
            RegisterOp::Set(value) => put(fields, "set", "value", from_value(value)),
            RegisterOp::Clear => "clear",
        },
        Mutation::Counter(CounterOp::Add(by)) => put(fields, "add", "by", (*by).into()),
        Mutation::Counter(CounterOp::Reset) => "reset",
        Mutation::Flag(op) | Mutation::DwFlag(op) => match op {
            FlagOp::Enable => "enable",
            FlagOp::Disable => "disable",
        },
        Mutation::Set(op) | Mutation::RwSet(op) => match op {
            SetOp::Add(element) => put(fields, "add", "element", from_value(element)),
            SetOp::Remove(element) => put(fields, "remove", "element", from_value(element)),
            SetOp::AddAll(elements) => put(fields, "add_all", "elements", values(elements)),
            SetOp::RemoveAll(elements) => put(fields, "remove_all", "elements", values(elements)),
            SetOp::Clear => "clear",
        },
        Mutation::Map(op) => match op {
            MapOp::Update { field, mutation } => {
                fields.insert("do".into(), mutation_json(mutation));
                put(fields, "update", "field", field.as_str().into())
            }
            MapOp::Remove { field } => put(fields, "remove", "field", field.as_str().into()),
            MapOp::Clear => "clear",
        },
        Mutation::Doc(DocOp::Update(update)) => put(fields, "update", "update", bytes(update)),
        Mutation::Doc(DocOp::UpdateEach(updates) | DocOp::UpdateAll(updates)) => {
            put(fields, "update_all", "updates", Json::Array(updates.iter().map(bytes).collect()))
        }
        Mutation::Delete(_) => "delete",
    };
    fields.insert("op".into(), op.into());
}

fn put(fields: &mut Fields, op: &'static str, name: &str, value: Json) -> &'static str {
    fields.insert(name.into(), value);
    op
}

fn bytes(update: &Bytes) -> Json {
    from_value(&Value::Bytes(update.to_vec()))
}

fn values(values: &[Value]) -> Json {
    Json::Array(values.iter().map(from_value).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::request;
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same_mutation() {
        for json in [
            json!({"type":"register","op":"set","value":{"a":[1,{"$bytes":"AP8="}]}}),
            json!({"type":"mvregister","op":"clear"}),
            json!({"type":"counter","op":"add","by":-5}),
            json!({"type":"counter","op":"reset"}),
            json!({"type":"flag","op":"enable"}),
            json!({"type":"dwflag","op":"disable"}),
            json!({"type":"set","op":"add","element":"x"}),
            json!({"type":"rwset","op":"remove_all","elements":[1,2.5]}),
            json!({"type":"set","op":"clear"}),
            json!({"type":"map","op":"update","field":"f","do":{"type":"counter","op":"add","by":1}}),
            json!({"type":"map","op":"remove","field":"f"}),
            json!({"type":"map","op":"clear"}),
            json!({"type":"doc","op":"update","update":{"$bytes":"AAA="}}),
            json!({"type":"doc","op":"update_all","updates":[{"$bytes":"AAA="}]}),
            json!({"type":"set","op":"delete"}),
        ] {
            let mutation = request::mutation(json.clone()).expect("valid");
            assert_eq!(mutation_json(&mutation), json);
        }
    }

    #[test]
    fn only_a_mutation_of_another_type_names_its_own() {
        let set = Mutation::Set(SetOp::Clear);
        let add = Mutation::Counter(CounterOp::Add(5));
        let told = ops_json(Some(Type::Counter), &[Mutation::Delete(None), set, add]);
        assert_eq!(told, json!([{"op":"delete"},{"op":"clear","type":"set"},{"op":"add","by":5}]));
    }
}
