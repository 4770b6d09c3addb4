//! Discovery: which groups, versions and resources there are, in the old and the aggregated form.
//! Pure: a [`Kinds`] snapshot in, documents out.

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, Kinds, join_version};

const REVIEW_VERBS: &[&str] = &["create"];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// Resources that can only be created and are never stored: (group, plural, kind, namespaced).
pub const REVIEWS: &[(&str, &str, &str, bool)] = &[
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", false),
    ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview", true),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", false),
];

/// `/api`
pub fn core_versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
           "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

/// `/apis`
pub fn groups(kinds: &Kinds) -> Value {
    let groups: Vec<Value> = kinds
        .groups()
        .iter()
        .filter_map(|group| group_members(kinds, group))
        .map(Value::Object)
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`
pub fn group(kinds: &Kinds, name: &str) -> Option<Value> {
    let mut group = group_members(kinds, name)?;
    group.insert("kind".into(), json!("APIGroup"));
    group.insert("apiVersion".into(), json!("v1"));
    Some(Value::Object(group))
}

fn group_members(kinds: &Kinds, name: &str) -> Option<Map<String, Value>> {
    if name.is_empty() {
        return None;
    }
    let entry =
        |version: &String| json!({"groupVersion": join_version(name, version), "version": version});
    let versions: Vec<Value> = kinds.versions(name).iter().map(entry).collect();
    let preferred = versions.first()?.clone();
    let mut map = Map::new();
    map.insert("name".into(), json!(name));
    map.insert("versions".into(), Value::Array(versions));
    map.insert("preferredVersion".into(), preferred);
    Some(map)
}

/// `/apis/{group}/{version}` and `/api/v1`
pub fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    if !kinds.versions(group).iter().any(|served| served == version) {
        return None;
    }
    let mut resources = Vec::new();
    for kind in kinds.of_version(group, version) {
        resources.push(resource(kind));
        for sub in subresources(kind) {
            resources.push(sub.legacy(kind));
        }
    }
    for (_, plural, kind, namespaced) in reviews(group, version) {
        resources.push(json!({"name": plural, "singularName": kind.to_ascii_lowercase(),
            "namespaced": namespaced, "kind": kind, "verbs": REVIEW_VERBS}));
    }
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1",
                "groupVersion": join_version(group, version), "resources": resources}))
}

fn reviews(
    group: &str,
    version: &str,
) -> impl Iterator<Item = &'static (&'static str, &'static str, &'static str, bool)> {
    REVIEWS.iter().filter(move |review| review.0 == group && version == "v1")
}

fn resource(kind: &Kind) -> Value {
    let mut map = json!({"name": kind.plural, "singularName": kind.singular,
        "namespaced": kind.namespaced, "kind": kind.kind, "verbs": kind.verbs});
    if !kind.short_names.is_empty() {
        map["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        map["categories"] = json!(kind.categories);
    }
    map
}

struct Subresource {
    name: &'static str,
    group: String,
    version: String,
    kind: String,
    verbs: &'static [&'static str],
}

impl Subresource {
    fn legacy(&self, parent: &Kind) -> Value {
        let mut map = json!({"name": format!("{}/{}", parent.plural, self.name),
            "singularName": "", "namespaced": parent.namespaced, "kind": self.kind,
            "verbs": self.verbs});
        if self.kind != parent.kind {
            map["group"] = json!(self.group);
            map["version"] = json!(self.version);
        }
        map
    }

    fn aggregated(&self) -> Value {
        json!({"subresource": self.name, "verbs": self.verbs, "responseKind":
            {"group": self.group, "version": self.version, "kind": self.kind}})
    }
}

fn subresources(kind: &Kind) -> Vec<Subresource> {
    let mut list = Vec::new();
    let same = |name, verbs| Subresource {
        name,
        group: kind.group.clone(),
        version: kind.version.clone(),
        kind: kind.kind.clone(),
        verbs,
    };
    if kind.resource.as_ref() == "namespaces" {
        list.push(same("finalize", &["update"]));
    }
    if kind.status {
        list.push(same("status", STATUS_VERBS));
    }
    if kind.custom().is_some_and(|custom| custom.scale.is_some()) {
        list.push(Subresource {
            name: "scale",
            group: "autoscaling".into(),
            version: "v1".into(),
            kind: "Scale".into(),
            verbs: STATUS_VERBS,
        });
    }
    list
}

/// `/api` or `/apis` in the aggregated form.
pub fn aggregated(kinds: &Kinds, core: bool) -> Value {
    let names = if core { vec![String::new()] } else { kinds.groups() };
    let items: Vec<Value> = names
        .iter()
        .map(|group| {
            let metadata = if core { json!({}) } else { json!({"name": group}) };
            let versions: Vec<Value> = kinds
                .versions(group)
                .iter()
                .map(|version| aggregated_version(kinds, group, version))
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
           "metadata": {}, "items": items})
}

fn aggregated_version(kinds: &Kinds, group: &str, version: &str) -> Value {
    let mut resources: Vec<Value> = kinds
        .of_version(group, version)
        .into_iter()
        .map(|kind| aggregated_resource(kind))
        .collect();
    for (_, plural, kind, namespaced) in reviews(group, version) {
        resources.push(json!({"resource": plural, "scope": scope(*namespaced),
            "responseKind": {"group": group, "version": version, "kind": kind},
            "singularResource": kind.to_ascii_lowercase(), "verbs": REVIEW_VERBS}));
    }
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let mut map = json!({"resource": kind.plural, "scope": scope(kind.namespaced),
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "singularResource": kind.singular, "verbs": kind.verbs});
    if !kind.short_names.is_empty() {
        map["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        map["categories"] = json!(kind.categories);
    }
    let subresources: Vec<Value> = subresources(kind).iter().map(Subresource::aggregated).collect();
    if !subresources.is_empty() {
        map["subresources"] = Value::Array(subresources);
    }
    map
}

fn scope(namespaced: bool) -> &'static str {
    if namespaced { "Namespaced" } else { "Cluster" }
}

/// `/`
pub fn index(kinds: &Kinds) -> Value {
    let mut paths: Vec<String> = ["/api", "/api/v1", "/apis"].map(str::to_owned).to_vec();
    for group in kinds.groups() {
        paths.push(format!("/apis/{group}"));
        for version in kinds.versions(&group) {
            paths.push(format!("/apis/{group}/{version}"));
        }
    }
    let rest = ["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];
    paths.extend(rest.map(str::to_owned));
    json!({ "paths": paths })
}

/// `/version`: the Kubernetes release whose behaviour this server follows.
pub fn version() -> Value {
    json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2+kedge", "gitTreeState": "clean",
           "gitCommit": "0000000000000000000000000000000000000000",
           "buildDate": "2026-01-01T00:00:00Z", "goVersion": "rust", "compiler": "rustc",
           "platform": "linux/amd64"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_a_preferred_version() {
        let kinds = Kinds::new(Vec::new());
        let list = groups(&kinds);
        let groups = list["groups"].as_array().unwrap();
        assert!(groups.iter().all(|group| group["preferredVersion"]["version"] == "v1"));
        assert!(groups.iter().any(|group| group["name"] == "authorization.k8s.io"));
        assert_eq!(group(&kinds, "nope"), None);
        assert_eq!(resources(&kinds, "", "v2"), None);
    }

    #[test]
    fn both_forms_name_the_same_resources() {
        let kinds = Kinds::new(Vec::new());
        let old = resources(&kinds, "", "v1").unwrap();
        let mut old: Vec<&str> = old["resources"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|r| r["name"].as_str())
            .filter(|name| !name.contains('/'))
            .collect();
        let new = aggregated(&kinds, true);
        let resources = new["items"][0]["versions"][0]["resources"].as_array().unwrap();
        let mut new: Vec<&str> = resources.iter().filter_map(|r| r["resource"].as_str()).collect();
        old.sort_unstable();
        new.sort_unstable();
        assert_eq!(old, new);
    }
}
