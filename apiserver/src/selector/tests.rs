use proptest::prelude::*;
use serde_json::json;

use super::*;

fn selects(selector: &str, labels: &Value) -> bool {
    LabelSelector::parse(selector).unwrap().matches(labels)
}

#[test]
fn every_operator_selects_as_documented_in_section_7() {
    let labels = json!({"grp": "a", "n": "4"});
    for yes in [
        "",
        "grp=a",
        "grp==a",
        "grp!=b",
        "grp in (a,b)",
        "grp notin (c)",
        "grp",
        "!nope",
        "n>3",
        "n<5",
        "nope!=x",
        "nope notin (x)",
        "grp = a , n = 4",
    ] {
        assert!(selects(yes, &labels), "{yes}");
    }
    for no in [
        "grp=b",
        "grp!=a",
        "grp in (b)",
        "grp notin (a)",
        "!grp",
        "nope",
        "n>4",
        "n<4",
        "nope=x",
        "nope>1",
        "grp>1",
    ] {
        assert!(!selects(no, &labels), "{no}");
    }
}

#[test]
fn objects_without_labels_match_only_negations() {
    assert!(selects("!a", &Value::Null));
    assert!(!selects("a", &Value::Null));
}

#[test]
fn label_parse_errors_read_as_recorded_in_3_raw_157_and_158() {
    let error = |s| LabelSelector::parse(s).unwrap_err().message;
    assert_eq!(error("grp==="), "unable to parse requirement: found '=', expected: identifier");
    assert_eq!(error("n=x y"), "found 'y', expected: ',' or 'end of string'");
    assert_eq!(LabelSelector::parse("a=,").unwrap_err().code, 400);
}

#[test]
fn field_selectors_compare_scalars_as_text() {
    let object = json!({"metadata":{"name":"p1"},"spec":{"color":"red","size":10,"on":true}});
    let matches = |s: &str| {
        FieldSelector::parse(s, &["spec.color", "spec.size", "spec.on"]).unwrap().matches(&object)
    };
    assert!(matches("metadata.name=p1,spec.color==red"));
    assert!(matches("spec.size=10,spec.on=true,spec.color!=blue"));
    assert!(!matches("metadata.name!=p1"));
    assert!(matches("metadata.namespace="));
}

#[test]
fn field_parse_errors_read_as_recorded_in_3_raw_163_and_164() {
    let error = |s| FieldSelector::parse(s, &[]).unwrap_err().message;
    assert_eq!(error("spec.nodeName=edge-1"), "field label not supported: spec.nodeName");
    assert_eq!(error("garbage"), "invalid selector: 'garbage'; can't understand 'garbage'");
}

#[test]
fn escaped_commas_and_equal_signs_belong_to_the_value() {
    let selector = FieldSelector::parse(r"metadata.name=a\,b\=c", &[]).unwrap();
    assert_eq!(selector.name(), Some("a,b=c"));
}

proptest! {
    #[test]
    fn parsers_never_panic(text in ".{0,60}") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text, &[]);
    }

    #[test]
    fn symbols_in_any_order_never_panic(text in "[a-c=!(), ><\\\\]{0,20}") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text, &["a"]);
    }
}
