//! Label and field selectors in their query-string form.
//!
//! Grammar and error texts follow the real parser.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::meta;
use crate::status::{Cause, Result, StatusError};

/// A parsed `labelSelector`. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl LabelSelector {
    /// Parses `k=v,k==v,k!=v,k in (a,b),k notin (a),k,!k,k>1,k<1`; `""` matches everything.
    ///
    /// # Errors
    /// 400 with the real server's wording.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { tokens: lex(text), at: 0 };
        let requirements = parser.requirements().map_err(StatusError::bad_request)?;
        Ok(Self { requirements })
    }

    /// Whether there is nothing to select by.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether `labels` (the value of `metadata.labels`, `Null` when absent) is selected.
    #[must_use]
    pub fn matches(&self, labels: &Value) -> bool {
        self.requirements.iter().all(|r| r.matches(labels.get(&r.key).and_then(Value::as_str)))
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        match (&self.operator, value) {
            (Operator::In(set), Some(value)) => set.contains(value),
            (Operator::NotIn(set), Some(value)) => !set.contains(value),
            (Operator::Exists, found) => found.is_some(),
            (Operator::Absent, found) => found.is_none(),
            (Operator::NotIn(_), None) => true,
            (Operator::Greater(bound), Some(value)) => number(value).is_some_and(|n| n > *bound),
            (Operator::Less(bound), Some(value)) => number(value).is_some_and(|n| n < *bound),
            (Operator::In(_) | Operator::Greater(_) | Operator::Less(_), None) => false,
        }
    }
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Symbol(symbol) => symbol,
            Self::End => "",
        }
    }
}

const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn lex(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let ends = |c: char| c.is_whitespace() || "=!(),><".contains(c);
            let len = rest.find(ends).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..len].to_owned()));
            rest = &rest[len..];
        }
        rest = rest.trim_start();
    }
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Token {
        self.tokens.get(self.at).cloned().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirements(&mut self) -> std::result::Result<Vec<Requirement>, String> {
        let mut found = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(found),
                Token::Word(_) | Token::Symbol("!") => {
                    let one = self
                        .requirement()
                        .map_err(|e| format!("unable to parse requirement: {e}"))?;
                    found.push(one);
                }
                Token::Symbol(other) => {
                    return Err(format!(
                        "found '{other}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
            match self.next() {
                Token::End => return Ok(found),
                Token::Symbol(",") => {
                    let next = self.peek();
                    if !matches!(next, Token::Word(_) | Token::Symbol("!")) {
                        return Err(format!(
                            "found '{}', expected: identifier after ','",
                            next.text()
                        ));
                    }
                }
                other @ (Token::Word(_) | Token::Symbol(_)) => {
                    return Err(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        other.text()
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> std::result::Result<Requirement, String> {
        let negated = self.peek() == Token::Symbol("!");
        if negated {
            self.next();
        }
        let key = match self.next() {
            Token::Word(word) => word,
            other @ (Token::Symbol(_) | Token::End) => {
                return Err(format!("found '{}', expected: identifier", other.text()));
            }
        };
        if let Some(problem) = meta::qualified_name_problem(&key) {
            let cause = Cause::invalid("key", &key.into(), &problem);
            return Err(cause.to_string());
        }
        if negated {
            return Ok(Requirement { key, operator: Operator::Absent });
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(Requirement { key, operator: Operator::Exists });
        }
        let operator = match self.next() {
            Token::Symbol("=" | "==") => Operator::In(self.exact_value(&key)?),
            Token::Symbol("!=") => Operator::NotIn(self.exact_value(&key)?),
            Token::Symbol(">") => Operator::Greater(self.bound(&key)?),
            Token::Symbol("<") => Operator::Less(self.bound(&key)?),
            Token::Word(word) if word == "in" => Operator::In(self.values(&key)?),
            Token::Word(word) if word == "notin" => Operator::NotIn(self.values(&key)?),
            other @ (Token::Word(_) | Token::Symbol(_) | Token::End) => {
                return Err(format!(
                    "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                    other.text()
                ));
            }
        };
        Ok(Requirement { key, operator })
    }

    fn exact_value(&mut self, key: &str) -> std::result::Result<BTreeSet<String>, String> {
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(BTreeSet::from([String::new()]));
        }
        match self.next() {
            Token::Word(word) => checked_values(key, BTreeSet::from([word])),
            other @ (Token::Symbol(_) | Token::End) => {
                Err(format!("found '{}', expected: identifier", other.text()))
            }
        }
    }

    fn bound(&mut self, key: &str) -> std::result::Result<i64, String> {
        let values = self.exact_value(key)?;
        let text = values.first().map(String::as_str).unwrap_or_default();
        number(text).ok_or_else(|| {
            let problem = "for 'Gt', 'Lt' operators, the value must be an integer";
            Cause::invalid("values[0]", &text.into(), problem).to_string()
        })
    }

    fn values(&mut self, key: &str) -> std::result::Result<BTreeSet<String>, String> {
        match self.next() {
            Token::Symbol("(") => {}
            other @ (Token::Word(_) | Token::Symbol(_) | Token::End) => {
                return Err(format!("found '{}' expected: '('", other.text()));
            }
        }
        let mut values = BTreeSet::new();
        let mut wants_value = true;
        loop {
            match self.next() {
                Token::Word(word) if wants_value => {
                    values.insert(word);
                    wants_value = false;
                }
                Token::Symbol(",") => {
                    if wants_value {
                        values.insert(String::new());
                    }
                    wants_value = true;
                }
                Token::Symbol(")") => {
                    if wants_value {
                        values.insert(String::new());
                    }
                    return checked_values(key, values);
                }
                other @ (Token::Word(_) | Token::Symbol(_) | Token::End) => {
                    return Err(format!("found '{}', expected: ',' or ')'", other.text()));
                }
            }
        }
    }
}

fn checked_values(
    key: &str,
    values: BTreeSet<String>,
) -> std::result::Result<BTreeSet<String>, String> {
    for (i, value) in values.iter().enumerate() {
        if let Some(problem) = meta::label_value_problem(value) {
            let field = format!("values[{i}][{key}]");
            return Err(Cause::invalid(field, &value.as_str().into(), &problem).to_string());
        }
    }
    Ok(values)
}

/// A parsed `fieldSelector`. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Parses `a.b=v,c!=w`. `metadata.name` and `metadata.namespace` are always supported;
    /// `supported` names the further dotted paths of the kind.
    ///
    /// # Errors
    /// 400 for a term without operator and for a field that is not supported.
    pub fn parse(text: &str, supported: &[&str]) -> Result<Self> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let term = parse_term(&part).ok_or_else(|| {
                StatusError::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ))
            })?;
            let always = ["metadata.name", "metadata.namespace"];
            if !always.contains(&term.field.as_str()) && !supported.contains(&term.field.as_str()) {
                return Err(StatusError::bad_request(format!(
                    "field label not supported: {}",
                    term.field
                )));
            }
            terms.push(term);
        }
        Ok(Self { terms })
    }

    /// Whether there is nothing to select by.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The name asked for with `metadata.name=…`, for lookups by key.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        let term = self.terms.iter().find(|t| t.equal && t.field == "metadata.name")?;
        Some(&term.value)
    }

    /// Whether the object is selected; fields are dotted paths into it, scalars compared as text,
    /// absent ones as `""`.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_with(|field| {
            let found = field.split('.').try_fold(object, |value, key| value.get(key));
            found.map(scalar_text).unwrap_or_default()
        })
    }

    /// As [`FieldSelector::matches`] for kinds whose fields are not plain paths: `lookup` gives the
    /// text of a field.
    pub fn matches_with(&self, lookup: impl Fn(&str) -> String) -> bool {
        self.terms.iter().all(|t| (lookup(&t.field) == t.value) == t.equal)
    }
}

fn scalar_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

/// Splits at commas that are not escaped by a backslash; escapes are kept for [`unescape`].
fn split_unescaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            parts.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

fn parse_term(part: &str) -> Option<Term> {
    let at = part.find(['=', '!'])?;
    let (field, rest) = part.split_at(at);
    let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
        (false, value)
    } else if let Some(value) = rest.strip_prefix("==") {
        (true, value)
    } else {
        (true, rest.strip_prefix('=')?)
    };
    Some(Term { field: field.to_owned(), equal, value: unescape(value) })
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\\' {
            out.extend(chars.next());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests;
