//! The syntax of names, label keys and label values.

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case \
    alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character \
    (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
    characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
    '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must \
    start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', \
    regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric \
    characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
    'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// What the names of a kind may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, at most 253 bytes: most kinds.
    Subdomain,
    /// RFC 1123 label, at most 63 bytes: Namespace and a few more.
    Label,
    /// Anything that can be one path segment: RBAC kinds.
    PathSegment,
}

/// Says what is wrong with a name, or `None`.
#[must_use]
pub fn name_problem(name: &str, rule: NameRule) -> Option<String> {
    match rule {
        NameRule::Subdomain => subdomain_problem(name),
        NameRule::Label => label_problem(name),
        NameRule::PathSegment => path_segment_problem(name),
    }
}

/// As [`name_problem`] for a generateName prefix, which may end in a dash.
pub(super) fn prefix_problem(prefix: &str, rule: NameRule) -> Option<String> {
    match prefix.strip_suffix('-') {
        Some(stem) => name_problem(&format!("{stem}a"), rule),
        None => name_problem(prefix, rule),
    }
}

fn subdomain_problem(name: &str) -> Option<String> {
    if name.len() > SUBDOMAIN_MAX {
        return Some(too_long(SUBDOMAIN_MAX));
    }
    let ok = !name.is_empty() && name.split('.').all(is_dns_label);
    (!ok).then(|| SUBDOMAIN_TEXT.to_owned())
}

fn label_problem(name: &str) -> Option<String> {
    if name.len() > LABEL_MAX {
        return Some(too_long(LABEL_MAX));
    }
    (!is_dns_label(name)).then(|| LABEL_TEXT.to_owned())
}

fn path_segment_problem(name: &str) -> Option<String> {
    if name == "." || name == ".." {
        return Some(format!("may not be '{name}'"));
    }
    let bad = ["/", "%"].into_iter().find(|c| name.contains(c))?;
    Some(format!("may not contain '{bad}'"))
}

/// Says what is wrong with a label or annotation key (`[domain/]name`), or `None`.
#[must_use]
pub fn qualified_name_problem(key: &str) -> Option<String> {
    let mut parts = key.split('/');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    if parts.next().is_some() {
        return Some(format!(
            "a valid label key {QUALIFIED_TEXT} with an optional DNS subdomain prefix and '/' \
             (e.g. 'example.com/MyName')"
        ));
    }
    let name = match second {
        Some(name) => {
            if first.is_empty() {
                return Some("prefix part must be non-empty".into());
            }
            if let Some(problem) = subdomain_problem(first) {
                return Some(format!("prefix part {problem}"));
            }
            name
        }
        None => first,
    };
    if name.is_empty() {
        Some("name part must be non-empty".into())
    } else if name.len() > LABEL_MAX {
        Some(format!("name part {}", too_long(LABEL_MAX)))
    } else if !is_qualified(name) {
        Some(format!("name part {QUALIFIED_TEXT}"))
    } else {
        None
    }
}

/// Says what is wrong with a label value, or `None`.
#[must_use]
pub fn label_value_problem(value: &str) -> Option<String> {
    if value.len() > LABEL_MAX {
        return Some(too_long(LABEL_MAX));
    }
    (!value.is_empty() && !is_qualified(value)).then(|| LABEL_VALUE_TEXT.to_owned())
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn is_dns_label(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bounded(text, alnum, |b| alnum(b) || b == b'-')
}

fn is_qualified(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_alphanumeric();
    bounded(text, alnum, |b| alnum(b) || b"-_.".contains(&b))
}

/// Whether the first and last byte satisfy `edge` and all bytes `inner`; false when empty.
fn bounded(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && bytes.iter().all(|b| inner(*b)),
        _ => false,
    }
}
