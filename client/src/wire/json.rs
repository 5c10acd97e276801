//! Values in JSON: as everyone expects, plus `{"$bytes":"<base64>"}`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use meridian_crdt::Value;
use serde_json::{Map, Number, Value as Json};

use super::error::{ApiError, ErrorCode};

const BYTES: &str = "$bytes";

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadValue, message)
}

/// The value that `json` stands for; an error names what cannot be kept.
pub fn to_value(json: &Json) -> Result<Value, ApiError> {
    let value = convert(json)?;
    if value.is_storable() { Ok(value) } else { Err(bad("the value is nested too deeply")) }
}

fn convert(json: &Json) -> Result<Value, ApiError> {
    Ok(match json {
        Json::Null => Value::Nil,
        Json::Bool(v) => Value::Bool(*v),
        Json::Number(n) => number(n)?,
        Json::String(v) => Value::Str(v.clone()),
        Json::Array(items) => Value::Array(items.iter().map(convert).collect::<Result<_, _>>()?),
        Json::Object(fields) => object(fields)?,
    })
}

fn number(n: &Number) -> Result<Value, ApiError> {
    if let Some(v) = n.as_i64() {
        return Ok(Value::Int(v));
    }
    if n.is_u64() {
        return Err(bad(format!("{n} does not fit a signed 64-bit integer; send it as a float or a string")));
    }
    let v = n.as_f64().ok_or_else(|| bad(format!("{n} is not a number that can be kept")))?;
    Ok(Value::Float(if v == 0.0 { 0.0 } else { v }))
}

fn object(fields: &Map<String, Json>) -> Result<Value, ApiError> {
    if let (1, Some(bytes)) = (fields.len(), fields.get(BYTES)) {
        let text = bytes.as_str().ok_or_else(|| bad("$bytes takes a string of base64"))?;
        let decoded = STANDARD.decode(text).map_err(|e| bad(format!("$bytes is not base64: {e}")))?;
        return Ok(Value::Bytes(decoded));
    }
    if let Some(name) = fields.keys().find(|name| name.starts_with('$')) {
        return Err(bad(format!("the object key {name:?} starts with $, which is kept for {BYTES}")));
    }
    let fields = fields.iter().map(|(k, v)| Ok((k.clone(), convert(v)?))).collect::<Result<_, ApiError>>()?;
    Ok(Value::Map(fields))
}

/// The JSON that stands for `value`. Infinite floats, which JSON cannot write, become the strings `inf` and `-inf`;
/// they cannot come in through JSON either.
pub fn from_value(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Bool(v) => Json::Bool(*v),
        Value::Int(v) => Json::from(*v),
        Value::Float(v) => Number::from_f64(*v).map_or_else(|| Json::from(v.to_string()), Json::Number),
        Value::Str(v) => Json::String(v.clone()),
        Value::Bytes(v) => {
            let mut fields = Map::new();
            fields.insert(BYTES.to_owned(), Json::String(STANDARD.encode(v)));
            Json::Object(fields)
        }
        Value::Array(items) => Json::Array(items.iter().map(from_value).collect()),
        Value::Map(fields) => Json::Object(fields.iter().map(|(k, v)| (k.clone(), from_value(v))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_round_trips() {
        let json = json!({"a":[1,-2,2.5,true,null,"x"],"b":{"$bytes":"AP8="},"c":{}});
        assert_eq!(from_value(&to_value(&json).expect("valid")), json);
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        for json in [json!({"$x":1}), json!({"$bytes":"?"}), json!({"$bytes":1}), json!(u64::MAX)] {
            assert_eq!(to_value(&json).expect_err("refused").code, ErrorCode::BadValue, "{json}");
        }
        let mut deep = json!(1);
        for _ in 0..40 {
            deep = json!([deep]);
        }
        assert_eq!(to_value(&deep).expect_err("too deep").code, ErrorCode::BadValue);
    }
}
