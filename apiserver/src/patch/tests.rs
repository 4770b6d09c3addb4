use proptest::prelude::*;
use serde_json::json;

use super::*;

fn patched(target: Value, patch: Value) -> Option<Value> {
    let mut target = target;
    json_patch(&mut target, &patch).ok().map(|()| target)
}

#[test]
fn merge_follows_rfc_7386() {
    // The table of the RFC's appendix A.
    for (target, patch, result) in [
        (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
        (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
        (json!({"a":"b"}), json!({"a":null}), json!({})),
        (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
        (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
        (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
        (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a":"b"}), json!(["c"]), json!(["c"])),
        (json!({"a":"foo"}), Value::Null, Value::Null),
        (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
        (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
        (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
    ] {
        let mut value = target.clone();
        merge(&mut value, &patch);
        assert_eq!(value, result, "{target} with {patch}");
    }
}

#[test]
fn operations_do_what_the_rfc_says() {
    let target = json!({"a":[1,2],"b":{"c":1}});
    for (op, result) in [
        (json!({"op":"add","path":"/a/-","value":3}), json!({"a":[1,2,3],"b":{"c":1}})),
        (json!({"op":"add","path":"/a/0","value":3}), json!({"a":[3,1,2],"b":{"c":1}})),
        (json!({"op":"remove","path":"/a/0"}), json!({"a":[2],"b":{"c":1}})),
        (json!({"op":"replace","path":"/b/c","value":2}), json!({"a":[1,2],"b":{"c":2}})),
        (json!({"op":"move","from":"/b/c","path":"/d"}), json!({"a":[1,2],"b":{},"d":1})),
        (json!({"op":"copy","from":"/b","path":"/d"}), json!({"a":[1,2],"b":{"c":1},"d":{"c":1}})),
        (json!({"op":"test","path":"/a/1","value":2}), target.clone()),
        (
            json!({"op":"add","path":"/b/x~1y~0z","value":1}),
            json!({"a":[1,2],"b":{"c":1,"x/y~z":1}}),
        ),
    ] {
        assert_eq!(patched(target.clone(), json!([op])), Some(result), "{op}");
    }
}

#[test]
fn go_quirks_hold_as_in_trap_8_and_3_raw_126_to_128() {
    let target = json!({"metadata":{},"list":[1,2]});
    let ok = |op: Value| patched(target.clone(), json!([op]));
    assert!(ok(json!({"op":"test","path":"/metadata/finalizers","value":null})).is_some());
    assert!(ok(json!({"op":"test","path":"/metadata/finalizers"})).is_some());
    assert_eq!(
        ok(json!({"op":"replace","path":"/metadata/x","value":1})),
        Some(json!({"metadata":{"x":1},"list":[1,2]}))
    );
    assert_eq!(
        ok(json!({"op":"remove","path":"/list/-1"})),
        Some(json!({"metadata":{},"list":[1]}))
    );
    assert_eq!(
        ok(json!({"op":"add","path":"/list/-1","value":3})),
        Some(json!({"metadata":{},"list":[1,2,3]}))
    );
    for bad in [
        json!({"op":"test","path":"/metadata/x","value":1}),
        json!({"op":"test","path":"/absent/x","value":null}),
        json!({"op":"remove","path":"/metadata/x"}),
        json!({"op":"bogus","path":"/x"}),
        json!({"op":"add","path":"/list/9","value":1}),
        json!({"op":"replace","path":"/list/2","value":1}),
        json!({"op":"add","path":"","value":1}),
        json!({"path":"/x"}),
        json!(5),
    ] {
        assert_eq!(ok(bad.clone()), None, "{bad}");
    }
}

#[test]
fn copying_into_oneself_cannot_grow_without_bounds() {
    let ops: Vec<Value> =
        (0..200).map(|_| json!({"op":"copy","from":"/a","path":"/a/b"})).collect();
    assert_eq!(patched(json!({"a":{}}), Value::Array(ops)), None);
    let ops: Vec<Value> = (0..40)
        .map(|i| json!({"op":"copy","from":"","path":format!("/k{i}")}))
        .chain((0..40).map(|_| json!({"op":"copy","from":"/a","path":"/a/-"})))
        .collect();
    assert_eq!(patched(json!({"a":["x"]}), Value::Array(ops)), None);
}

fn node(kind: &str) -> MergeKeys {
    MergeKeys::of_kind(kind)
}

fn strategically(mut target: Value, patch: Value, keys: &MergeKeys) -> Value {
    strategic(&mut target, &patch, keys).unwrap();
    target
}

#[test]
fn conditions_of_a_node_merge_by_type_as_in_4_core_057() {
    let live = json!({"status":{"conditions":[{"type":"Ready","status":"True","reason":"a"},
        {"type":"Disk","status":"False"}]}});
    let patch = json!({"status":{"$setElementOrder/conditions":[{"type":"Ready"}],
        "conditions":[{"type":"Ready","status":"False"},{"type":"New","status":"True"}]}});
    assert_eq!(
        strategically(live.clone(), patch.clone(), &node("Node")),
        json!({"status":{"conditions":[{"type":"Ready","status":"False","reason":"a"},
            {"type":"Disk","status":"False"},{"type":"New","status":"True"}]}})
    );
    // Without a merge key the list is replaced.
    let replaced = strategically(live, patch, &node("Event"));
    assert_eq!(replaced["status"]["conditions"].as_array().map(Vec::len), Some(2));
}

#[test]
fn directives_in_lists_replace_and_delete_as_in_4_core_059_and_060() {
    let live = json!({"status":{"conditions":[{"type":"A","x":1},{"type":"B"}]}});
    let deleted = json!({"status":{"conditions":[{"$patch":"delete","type":"A"}]}});
    assert_eq!(
        strategically(live.clone(), deleted, &node("Node")),
        json!({"status":{"conditions":[{"type":"B"}]}})
    );
    let replaced = json!({"status":{"conditions":[{"$patch":"replace"},{"type":"C"}]}});
    assert_eq!(
        strategically(live, replaced, &node("Node")),
        json!({"status":{"conditions":[{"type":"C"}]}})
    );
}

#[test]
fn directives_in_maps_work_as_in_4_core_022_and_023() {
    let live = json!({"data":{"a":"1","b":"2"}});
    let keys = node("ConfigMap");
    assert_eq!(
        strategically(live.clone(), json!({"data":{"a":null,"c":"3"}}), &keys),
        json!({"data":{"b":"2","c":"3"}})
    );
    assert_eq!(
        strategically(live.clone(), json!({"data":{"$patch":"replace","z":"9"}}), &keys),
        json!({"data":{"z":"9"}})
    );
    assert_eq!(
        strategically(live.clone(), json!({"data":{"$patch":"delete"}}), &keys),
        json!({"data":{}})
    );
    assert_eq!(
        strategically(live, json!({"data":{"$retainKeys":["b","c"],"c":"3"}}), &keys),
        json!({"data":{"b":"2","c":"3"}})
    );
}

#[test]
fn finalizers_are_a_set_that_can_lose_members() {
    let live = json!({"metadata":{"finalizers":["a/b","c/d"]}});
    let patch = json!({"metadata":{"$deleteFromPrimitiveList/finalizers":["a/b"],
        "$setElementOrder/finalizers":["e/f","c/d"],"finalizers":["e/f"]}});
    assert_eq!(
        strategically(live, patch, &node("Node")),
        json!({"metadata":{"finalizers":["e/f","c/d"]}})
    );
}

#[test]
fn items_without_their_merge_key_are_refused() {
    let mut live = json!({"status":{"conditions":[]}});
    let patch = json!({"status":{"conditions":[{"status":"True"}]}});
    assert_eq!(strategic(&mut live, &patch, &node("Node")).unwrap_err().code, 400);
    assert_eq!(strategic(&mut live, &json!([1]), &node("Node")).unwrap_err().code, 400);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i8>().prop_map(Value::from),
        prop_oneof![Just("replace"), Just("delete"), Just("/a/b"), Just("-")].prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 30, 4, |inner| {
        let key = prop_oneof![
            Just("$patch"),
            Just("status"),
            Just("conditions"),
            Just("type"),
            Just("a"),
            Just("$setElementOrder/conditions"),
            Just("$deleteFromPrimitiveList/a"),
            Just("$retainKeys"),
            Just("metadata"),
            Just("finalizers"),
        ]
        .prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_patch_panics(target in any_json(), patch in any_json()) {
        merge(&mut target.clone(), &patch);
        let _ = json_patch(&mut target.clone(), &patch);
        let mut target = target;
        let _ = strategic(&mut target, &patch, &node("Node"));
    }

    #[test]
    fn merging_an_object_into_itself_changes_nothing(target in any_json()) {
        prop_assume!(target.is_object() && !target.to_string().contains("null"));
        let mut merged = target.clone();
        merge(&mut merged, &target);
        prop_assert_eq!(merged, target);
    }
}
