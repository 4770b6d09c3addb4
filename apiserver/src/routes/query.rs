//! Query parameters and the options they carry. Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::status::{Cause, Result, StatusError};

/// The decoded parameters, in order. Empty pairs (`?&a=b`) are dropped.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((form_decode(name)?, form_decode(value)?))
        };
        Self(text.split('&').filter(|text| !text.is_empty()).filter_map(pair).collect())
    }

    /// The first value of a parameter that is present.
    pub fn present(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that is present and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.present(name).filter(|value| !value.is_empty())
    }

    /// Go's reading of a boolean parameter: present and neither `0` nor `false`.
    pub fn flag(&self, name: &str) -> bool {
        self.present(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    pub fn integer(&self, name: &str) -> Result<Option<i64>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let bad = |_| {
            StatusError::bad_request(format!(
                "strconv.ParseInt: parsing \"{text}\": invalid syntax"
            ))
        };
        text.parse().map(Some).map_err(bad)
    }
}

fn form_decode(text: &str) -> Option<String> {
    super::path::decode(&text.replace('+', " "))
}

/// How unknown and duplicate fields of a body are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// The verbs that write; they name the options object in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Create,
    Update,
    Patch,
    Delete,
}

impl Verb {
    fn options(self) -> &'static str {
        match self {
            Verb::Create => "CreateOptions",
            Verb::Update => "UpdateOptions",
            Verb::Patch => "PatchOptions",
            Verb::Delete => "DeleteOptions",
        }
    }
}

/// What a writing request asks for besides its body.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    pub dry_run: bool,
    /// Who owns the written fields: `fieldManager`, else the User-Agent's first word.
    pub manager: String,
    /// Whether `fieldManager` was given (apply demands it).
    pub named_manager: bool,
    pub field_validation: FieldValidation,
    pub force: bool,
    pub now: Timestamp,
}

impl WriteOptions {
    pub fn parse(
        query: &Query,
        verb: Verb,
        user_agent: Option<&str>,
        now: Timestamp,
    ) -> Result<Self> {
        let mut causes = Vec::new();
        let dry_run = dry_run(query.get("dryRun"), &mut causes);
        let named = query.get("fieldManager");
        if let Some(name) = named {
            check_manager(name, &mut causes);
        }
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                let supported = ["", "Ignore", "Strict", "Warn"];
                causes.push(Cause::not_supported("fieldValidation", &json!(other), &supported));
                FieldValidation::Warn
            }
        };
        if !causes.is_empty() {
            return Err(StatusError::invalid_options(verb.options(), &causes));
        }
        Ok(Self {
            dry_run,
            manager: named.map_or_else(|| default_manager(user_agent), str::to_owned),
            named_manager: named.is_some(),
            field_validation,
            force: query.flag("force"),
            now,
        })
    }
}

fn dry_run(value: Option<&str>, causes: &mut Vec<Cause>) -> bool {
    match value {
        None => false,
        Some("All") => true,
        Some(other) => {
            causes.push(Cause::not_supported("dryRun", &json!([other]), &["All"]));
            false
        }
    }
}

fn check_manager(name: &str, causes: &mut Vec<Cause>) {
    if name.len() > 128 {
        causes.push(Cause::too_long("fieldManager", 128));
    } else if name.chars().any(|c| c.is_control()) {
        let detail = "should only contain printable characters";
        causes.push(Cause::invalid("fieldManager", &json!(name), detail));
    }
}

/// The part of the User-Agent before the first `/`, `unknown` without one.
fn default_manager(user_agent: Option<&str>) -> String {
    let name = user_agent.and_then(|text| text.split('/').next()).unwrap_or_default();
    if name.is_empty() { "unknown".into() } else { name.chars().take(128).collect() }
}

/// What happens to the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// How and on what condition to delete.
#[derive(Debug, Clone)]
pub struct DeleteOptions {
    pub dry_run: bool,
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub now: Timestamp,
}

impl DeleteOptions {
    /// The body wins over the query, as in the real server.
    pub fn parse(query: &Query, body: &Value, now: Timestamp) -> Result<Self> {
        let from_body = |name: &str| body.get(name).and_then(Value::as_str);
        let mut causes = Vec::new();
        let body_dry = body.pointer("/dryRun/0").and_then(Value::as_str);
        let dry_run = dry_run(body_dry.or(query.get("dryRun")), &mut causes);
        let policy = from_body("propagationPolicy").or(query.get("propagationPolicy"));
        let orphan = body.get("orphanDependents").and_then(Value::as_bool);
        let propagation = match (policy, orphan) {
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (None | Some(""), None) | (Some(""), Some(_)) => None,
            (Some(other), _) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                causes.push(Cause::not_supported("propagationPolicy", &json!(other), &supported));
                None
            }
        };
        if let (Some(policy), Some(_)) = (policy, orphan) {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            causes.push(Cause::invalid("propagationPolicy", &json!(policy), detail));
        }
        if !causes.is_empty() {
            return Err(StatusError::invalid_options("DeleteOptions", &causes));
        }
        let precondition = |name: &str| {
            let value = body.get("preconditions").and_then(|p| p.get(name));
            value.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        Ok(Self {
            dry_run,
            propagation,
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_may_hold_empty_pairs_and_escapes() {
        let query = Query::parse("&labelSelector=a%3Db&&watch&x=1+2");
        assert_eq!(query.get("labelSelector"), Some("a=b"));
        assert_eq!(query.get("x"), Some("1 2"));
        assert!(query.flag("watch"));
        assert!(!Query::parse("watch=false").flag("watch"));
        assert!(!Query::parse("watch=0").flag("watch"));
    }

    #[test]
    fn the_user_agent_names_the_manager_when_nobody_else_does() {
        let now = Timestamp::UNIX_EPOCH;
        let parse = |q: &str, agent| {
            WriteOptions::parse(&Query::parse(q), Verb::Create, agent, now).unwrap().manager
        };
        assert_eq!(parse("", Some("kubectl/v1.35 (linux)")), "kubectl");
        assert_eq!(parse("", None), "unknown");
        assert_eq!(parse("fieldManager=me", Some("kubectl/v1.35")), "me");
    }

    #[test]
    fn unsupported_options_are_refused_with_their_field() {
        let now = Timestamp::UNIX_EPOCH;
        for query in ["dryRun=Some", "fieldValidation=Nonsense"] {
            assert!(WriteOptions::parse(&Query::parse(query), Verb::Create, None, now).is_err());
        }
    }
}
