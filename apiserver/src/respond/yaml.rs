//! Values as YAML 1.1, the dialect of Kubernetes: whatever a reader of that dialect could take for
//! something else than text (`n`, `off`, `1e3`, a date) is quoted.

use serde_json::Value;

/// Words that are booleans or null to some reader.
const RESERVED: &[&str] =
    &["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];

/// A value as a YAML document.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out
}

/// Writes a value that starts at the beginning of a line, indented by `depth`.
fn write(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                // The first key follows the dash of a list item.
                if index > 0 || !out.ends_with("- ") {
                    out.push_str(&"  ".repeat(depth));
                }
                out.push_str(&scalar(key));
                out.push(':');
                match value {
                    Value::Object(map) if !map.is_empty() => {
                        out.push('\n');
                        write(value, depth + 1, out);
                    }
                    Value::Array(list) if !list.is_empty() => {
                        out.push('\n');
                        write(value, depth, out);
                    }
                    Value::Null
                    | Value::Bool(_)
                    | Value::Number(_)
                    | Value::String(_)
                    | Value::Array(_)
                    | Value::Object(_) => {
                        out.push(' ');
                        write(value, depth, out);
                    }
                }
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (index, item) in list.iter().enumerate() {
                if index > 0 || !out.ends_with("- ") {
                    out.push_str(&"  ".repeat(depth));
                }
                out.push_str("- ");
                write(item, depth + 1, out);
            }
        }
        Value::String(text) => {
            out.push_str(&scalar(text));
            out.push('\n');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            out.push_str(&value.to_string());
            out.push('\n');
        }
    }
}

/// Text as it is where that is safe, otherwise in the JSON form, which YAML reads the same.
fn scalar(text: &str) -> String {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '/');
    let last = text.chars().last().is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = text.chars().all(|c| c.is_ascii_alphanumeric() || "_./- ".contains(c));
    let reserved = RESERVED.contains(&text.to_ascii_lowercase().as_str());
    if first && last && inner && !reserved {
        text.to_owned()
    } else {
        Value::String(text.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let value = json!({
            "text": "hello world", "date": "2026-01-01T00:00:00Z", "n": "n", "off": "off",
            "number": "1e3", "lines": "a\nb\n", "empty": "", "colon": "a: b", "hash": "a #b",
            "list": [1, "two", [3, [4]], {"a": {"b": []}, "c": [{"d": null}]}, {}],
            "x/y.z": {"deep": {"er": true}}, "float": 1.5, "unicode": "grüße",
        });
        let text = text(&value);
        let decoded = crate::decode::decode(text.as_bytes(), crate::decode::Format::Yaml).unwrap();
        assert_eq!(decoded.value, value, "{text}");
    }
}
