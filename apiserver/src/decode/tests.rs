use proptest::prelude::*;
use serde_json::json;

use super::*;

fn json_value(text: &str) -> Value {
    decode(text.as_bytes(), Format::Json).unwrap().value
}

fn yaml_value(text: &str) -> Value {
    decode(text.as_bytes(), Format::Yaml).unwrap().value
}

#[test]
fn keys_given_twice_are_named_by_path_and_the_last_wins_as_in_3_raw_033() {
    let body = r#"{"metadata":{"labels":{"a":"1","a":"2"}},"spec":{"nodeName":"a","nodeName":"b",
        "properties":[{"name":"p","name":"q"}]}}"#;
    let decoded = decode(body.as_bytes(), Format::Json).unwrap();
    assert_eq!(
        decoded.duplicates,
        [
            "duplicate field \"metadata.labels.a\"",
            "duplicate field \"spec.nodeName\"",
            "duplicate field \"spec.properties[0].name\"",
        ]
    );
    assert_eq!(decoded.value["spec"]["nodeName"], "b");
}

#[test]
fn yaml_duplicates_read_as_recorded_in_3_raw_036() {
    let body = "apiVersion: devices.kubeedge.io/v1beta1\nkind: Device\nmetadata:\n  name: y1\n\
                spec:\n  nodeName: n1\n  nodeName: m1\n";
    let decoded = decode(body.as_bytes(), Format::Yaml).unwrap();
    assert_eq!(
        decoded.duplicates,
        ["yaml: unmarshal errors:\n  line 7: key \"nodeName\" already set in map"]
    );
    assert_eq!(decoded.value["spec"]["nodeName"], "m1");
}

#[test]
fn whole_floats_are_integers_and_wide_integers_are_floats_as_in_3_raw_387_to_389() {
    assert_eq!(
        json_value("[5.0, 1e2, 0.5, 9223372036854775807]").to_string(),
        "[5,100,0.5,9223372036854775807]"
    );
    assert!(json_value("9223372036854775808").is_f64());
}

#[test]
fn bare_yes_no_on_off_are_booleans_in_yaml_as_in_3_raw_018() {
    assert_eq!(
        yaml_value("{a: n, b: 'n', c: on, d: Off, e: yes, f: nope, g: \"y\"}"),
        json!({"a":false,"b":"n","c":true,"d":false,"e":true,"f":"nope","g":"y"})
    );
}

#[test]
fn yaml_numbers_follow_the_old_rules() {
    assert_eq!(
        yaml_value("[1, -2, 0x10, 010, 1_000, 1.50, .5, 1e3, 1.2.3, 2026-11-22, 08, '1', 0o7, +3]"),
        json!([1, -2, 16, 8, 1000, 1.5, 0.5, 1000, "1.2.3", "2026-11-22", 8, "1", 7, 3])
    );
}

#[test]
fn yaml_structures_anchors_and_merges_work() {
    let text = "base: &b {x: 1, z: 2}\nuse:\n  <<: *b\n  z: 3\nlist:\n- *b\n- |\n  text\n1: one\n";
    assert_eq!(
        yaml_value(text),
        json!({"base":{"x":1,"z":2},"use":{"x":1,"z":3},"list":[{"x":1,"z":2},"text\n"],"1":"one"})
    );
    assert_eq!(yaml_value(""), Value::Null);
    assert_eq!(yaml_value("# only a comment\n"), Value::Null);
    assert_eq!(yaml_value("---\na: 1 # c\n---\nb: 2\n"), json!({"a":1}));
}

#[test]
fn json_inside_yaml_is_json() {
    assert_eq!(yaml_value("{\"a\": \"n\", \"b\": 1}"), json!({"a":"n","b":1}));
}

#[test]
fn unreadable_objects_read_as_recorded_in_3_raw_015_to_017() {
    let refuse =
        |body: &str| decode_object(body.as_bytes(), Format::Json, "Device").unwrap_err().message;
    assert_eq!(
        refuse("{\"apiVersion\":\"devices.kubeedge.io/v1beta1\",\"kind\":"),
        "the object provided is unrecognized (must be of type Device): couldn't get version/kind; \
         json parse error: unexpected end of JSON input ({\"apiVersion\":\"devices.kubeedg ...)"
    );
    assert!(refuse("").ends_with("unexpected end of JSON input (<empty>)"));
    assert!(refuse("[]").ends_with("\\\"kind,omitempty\\\"\" } (5b5d)"), "{}", refuse("[]"));
}

#[test]
fn unreadable_patches_read_as_recorded_in_3_raw_123_124_and_130() {
    assert_eq!(
        decode_merge_patch(b"[1]").unwrap_err().message,
        "error decoding patch: json: cannot unmarshal array into Go value of type \
         map[string]interface {}"
    );
    assert_eq!(
        decode_merge_patch(b"{bad").unwrap_err().message,
        "error decoding patch: invalid character 'b' looking for beginning of object key string"
    );
    assert_eq!(
        decode_json_patch(b"{\"a\":1}").unwrap_err().message,
        "error decoding patch: json: cannot unmarshal object into Go value of type \
         []handlers.jsonPatchOp"
    );
}

#[test]
fn nesting_is_limited_in_both_formats() {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    for format in [Format::Json, Format::Yaml] {
        assert!(decode(deep(MAX_DEPTH).as_bytes(), format).is_ok(), "{format:?}");
        assert!(decode(deep(MAX_DEPTH + 1).as_bytes(), format).is_err());
        assert!(decode(deep(100_000).as_bytes(), format).is_err());
    }
    let block: String = (0..300).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(decode(block.as_bytes(), Format::Yaml).is_err());
}

#[test]
fn aliases_cannot_blow_up() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..9 {
        let refs = format!("*a{}", i - 1);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![refs; 10].join(", ")));
    }
    let error = decode(bomb.as_bytes(), Format::Yaml).unwrap_err();
    assert!(error.message.contains("excessive aliasing"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        for format in [Format::Json, Format::Yaml] {
            let _ = decode(&body, format);
            let _ = decode_object(&body, format, "Device");
        }
        let _ = decode_merge_patch(&body);
        let _ = decode_json_patch(&body);
    }

    #[test]
    fn yamlish_text_never_panics(text in "[-a-c:{}\\[\\]&*!|>'\"# \n0-9.,<?%@]{0,80}") {
        let _ = decode(text.as_bytes(), Format::Yaml);
    }
}
