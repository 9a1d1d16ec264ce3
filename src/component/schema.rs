//! The JSON Schema of component documents, from the same tables that the checker reads.

use super::action::{self, Action, Field, Kind, Shape};
use super::condition::{LOGICAL, OPERATORS};
use super::document::OnFailure;
use super::name;
use serde_json::{Map, Value, json};

/// The whole schema (draft 2020-12). What a schema cannot say (references, unique names) is not in it.
pub fn schema() -> Value {
    let name_pattern = format!("^[A-Za-z0-9_-]{{{},{}}}$", name::MIN, name::MAX);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Component document",
        "description": "An EC2 Image Builder (AWSTOE) component document, as kiln runs it",
        "type": "object",
        "required": ["schemaVersion", "phases"],
        "additionalProperties": false,
        "properties": {
            "name": {"type": "string"},
            "description": {"type": "string"},
            "schemaVersion": {"enum": [1, 1.0, "1.0", "1"]},
            "constants": named_list(&json!({
                "type": "object",
                "required": ["type", "value"],
                "additionalProperties": false,
                "properties": {"type": {"const": "string"}, "value": scalar()},
            })),
            "parameters": named_list(&json!({
                "type": "object",
                "required": ["type"],
                "additionalProperties": false,
                "properties": {
                    "type": {"const": "string"},
                    "default": scalar(),
                    "description": {"type": "string"},
                    "allowedValues": {"type": "array", "items": scalar()},
                },
            })),
            "disableLogging": {"type": "boolean"},
            "phases": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/phase"}},
        },
        "$defs": {
            "name": {"type": "string", "pattern": name_pattern},
            "phase": {
                "type": "object",
                "required": ["name", "steps"],
                "additionalProperties": false,
                "properties": {
                    "name": {"$ref": "#/$defs/name"},
                    "disableLogging": {"type": "boolean"},
                    "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}},
                },
            },
            "step": step(),
            "loop": looped(),
            "condition": condition(),
            "if": conditional(),
        },
    })
}

/// A text, or what is taken as the text it is written with.
fn scalar() -> Value {
    json!({"type": ["string", "number", "boolean"]})
}

fn named_list(body: &Value) -> Value {
    json!({
        "type": "array",
        "items": {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "propertyNames": {"$ref": "#/$defs/name"},
            "additionalProperties": body,
        },
    })
}

fn step() -> Value {
    let per_action: Vec<Value> = action::ALL
        .iter()
        .map(|a| {
            let mut then = json!({"properties": {"inputs": inputs(a)}});
            if a.needs_inputs() {
                then["required"] = json!(["inputs"]);
            }
            json!({"if": {"properties": {"action": {"const": a.name}}}, "then": then})
        })
        .collect();
    json!({
        "type": "object",
        "required": ["name", "action"],
        "additionalProperties": false,
        "properties": {
            "name": {"$ref": "#/$defs/name"},
            "action": {
                "oneOf": action::ALL
                    .iter()
                    .map(|a| json!({"const": a.name, "description": a.summary}))
                    .collect::<Vec<_>>(),
            },
            "timeoutSeconds": {"anyOf": [{"type": "integer", "minimum": 1}, {"const": -1}], "default": 7200},
            "maxAttempts": {"type": "integer", "minimum": 1, "default": 1},
            "onFailure": {"enum": OnFailure::ALL.map(OnFailure::as_str), "default": "Abort"},
            "disableLogging": {"type": "boolean", "default": false},
            "loop": {"$ref": "#/$defs/loop"},
            "if": {"$ref": "#/$defs/if"},
            "inputs": {},
        },
        "allOf": per_action,
    })
}

fn inputs(action: &Action) -> Value {
    let item = || {
        let properties: Map<String, Value> =
            action.fields.iter().map(|f| (f.name.to_owned(), field(f))).collect();
        let required: Vec<&str> = action.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
        json!({
            "type": "object",
            "required": required,
            "additionalProperties": false,
            "properties": properties,
        })
    };
    match action.shape {
        Shape::Condition => json!({"$ref": "#/$defs/condition"}),
        Shape::List => json!({"type": "array", "minItems": 1, "items": item()}),
        Shape::Map if action.needs_inputs() => item(),
        Shape::Map => json!({"anyOf": [item(), {"type": "null"}]}),
    }
}

fn field(field: &Field) -> Value {
    let mut schema = match field.kind {
        Kind::Texts => {
            json!({"type": "array", "minItems": 1, "items": {"type": ["string", "number", "boolean", "null"]}})
        }
        Kind::Boolean => json!({"type": "boolean"}),
        Kind::Integer => json!({"type": ["integer", "null"], "minimum": 0}),
        Kind::Map => json!({"type": "object", "additionalProperties": scalar()}),
        Kind::NamedValues => json!({
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "value"],
                "additionalProperties": false,
                "properties": {"name": {"type": "string"}, "value": scalar()},
            },
        }),
        Kind::Registry => json!({"type": ["string", "number", "boolean", "array"]}),
        Kind::Choice(choices) => {
            json!({"anyOf": [{"enum": choices}, {"type": "string", "pattern": r"\{\{"}]})
        }
        _ => scalar(),
    };
    schema["description"] = field.help.into();
    if let Some(default) = field.default {
        schema["default"] = match field.kind {
            Kind::Boolean | Kind::BooleanText => (default == "true").into(),
            Kind::Integer => default.parse::<i64>().map_or(Value::Null, Value::from),
            _ => default.into(),
        };
    }
    schema
}

fn looped() -> Value {
    let number = json!({"type": "integer"});
    json!({
        "type": "object",
        "additionalProperties": false,
        "oneOf": [{"required": ["for"]}, {"required": ["forEach"]}],
        "properties": {
            "name": {"type": "string"},
            "for": {
                "type": "object",
                "required": ["start", "end", "updateBy"],
                "additionalProperties": false,
                "properties": {"start": number, "end": number, "updateBy": number},
            },
            "forEach": {
                "anyOf": [
                    {"type": "array", "minItems": 1, "items": scalar()},
                    {
                        "type": "object",
                        "required": ["list"],
                        "additionalProperties": false,
                        "properties": {
                            "list": scalar(),
                            "delimiter": {
                                "enum": [".", ",", ";", ":", "\n", "\t", " ", "-", "_"],
                                "default": ",",
                            },
                        },
                    },
                ],
            },
        },
    })
}

/// The operators and what stands beside them.
fn operators() -> (Map<String, Value>, Vec<Value>) {
    let mut properties = Map::new();
    let mut one_of = Vec::new();
    for operator in &OPERATORS {
        let mut schema = scalar();
        schema["description"] = operator.help.into();
        properties.insert(operator.name.into(), schema);
        let required: Vec<&str> = std::iter::once(operator.name).chain(operator.companion).collect();
        one_of.push(json!({"required": required}));
    }
    let list = json!({"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/condition"}});
    let not = json!({"anyOf": [
        {"$ref": "#/$defs/condition"},
        {"type": "array", "minItems": 1, "maxItems": 1, "items": {"$ref": "#/$defs/condition"}},
    ]});
    for name in LOGICAL {
        properties.insert(name.into(), if name == "not" { not.clone() } else { list.clone() });
        one_of.push(json!({"required": [name]}));
    }
    for companion in ["value", "path"] {
        properties.insert(companion.into(), scalar());
    }
    (properties, one_of)
}

fn condition() -> Value {
    let (properties, one_of) = operators();
    json!({"type": "object", "additionalProperties": false, "properties": properties, "oneOf": one_of})
}

fn conditional() -> Value {
    let (mut properties, one_of) = operators();
    let verdicts = ["Abort", "Execute", "Skip"];
    properties.insert("then".into(), json!({"enum": verdicts, "default": "Execute"}));
    properties.insert("else".into(), json!({"enum": verdicts, "default": "Skip"}));
    json!({"type": "object", "additionalProperties": false, "properties": properties, "oneOf": one_of})
}

#[cfg(test)]
mod tests {
    /// After a change of the tables: `kiln component schema > docs/component-document.schema.json`.
    #[test]
    fn the_published_schema_is_this_one() {
        let published = include_str!("../../docs/component-document.schema.json");
        let published: serde_json::Value = serde_json::from_str(published).unwrap();
        assert!(published == super::schema(), "docs/component-document.schema.json is out of date");
    }
}
