//! YAML 1.1 as Kubernetes reads it: plain scalars resolve by the old rules, keys become text.

use std::collections::{BTreeMap, BTreeSet};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde_json::{Map, Value};

use super::{Decoded, MAX_DEPTH};

/// How many values aliases may copy in one document: keeps a small file from becoming a huge one.
const MAX_ALIASED: usize = 20_000;

pub(super) fn decode(body: &[u8]) -> Result<Decoded, String> {
    let text =
        std::str::from_utf8(body).map_err(|_| "yaml: invalid Unicode character".to_owned())?;
    // JSON is read as JSON: exact about escapes that YAML knows differently, and faster.
    if text.trim_start().starts_with('{')
        && let Ok(decoded) = super::json(body)
    {
        return Ok(decoded);
    }
    let mut reader = Reader {
        events: Parser::new_from_str(text),
        anchors: BTreeMap::new(),
        duplicates: Vec::new(),
        copied: 0,
    };
    let value =
        reader.document().map_err(|e| format!("error converting YAML to JSON: yaml: {e}"))?;
    let duplicates = match reader.duplicates.as_slice() {
        [] => Vec::new(),
        lines => vec![format!("yaml: unmarshal errors:\n{}", lines.join("\n"))],
    };
    Ok(Decoded { value, duplicates })
}

type Events<'a> = Parser<'a, granit_parser::StrInput<'a>>;

struct Reader<'a> {
    events: Events<'a>,
    anchors: BTreeMap<usize, Value>,
    /// `  line N: key "k" already set in map`
    duplicates: Vec<String>,
    copied: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(complaint(&error)),
            None => Err("unexpected end of stream".into()),
        }
    }

    /// The first document; an empty stream is `null`.
    fn document(&mut self) -> Result<Value, String> {
        let mut value = Value::Null;
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::StreamEnd | Event::DocumentEnd) {
                return Ok(value);
            }
            let marks_only =
                matches!(event, Event::StreamStart | Event::DocumentStart(..) | Event::Comment(..));
            if !marks_only {
                value = self.value(event, &span, 0)?;
            }
        }
    }

    /// The next event that is content.
    fn content(&mut self) -> Result<(Event<'a>, Span), String> {
        loop {
            let (event, span) = self.next()?;
            if !matches!(event, Event::Comment(..) | Event::Anchor(..)) {
                return Ok((event, span));
            }
        }
    }

    fn value(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Value, String> {
        let (anchor, value) = if let Event::Scalar(text, style, anchor, tag) = event {
            let tag = tag.as_ref().and_then(|t| t.core_suffix().map(str::to_owned));
            (anchor, scalar(&text, style, tag.as_deref())?)
        } else if let Event::SequenceStart(_, anchor, _) = event {
            (anchor, self.sequence(depth)?)
        } else if let Event::MappingStart(_, anchor, _) = event {
            (anchor, self.mapping(depth)?)
        } else if let Event::Alias(id) = event {
            return self.alias(id, span, depth);
        } else {
            return Err(format!("line {}: did not find expected node content", line(span)));
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn alias(&mut self, id: usize, span: &Span, depth: usize) -> Result<Value, String> {
        let Some(value) = self.anchors.get(&id) else {
            return Err(format!("line {}: anchor value contains itself", line(span)));
        };
        let (count, levels) = measure(value);
        self.copied += count;
        if self.copied > MAX_ALIASED {
            return Err("document contains excessive aliasing".into());
        }
        if depth + levels > MAX_DEPTH {
            return Err(too_deep());
        }
        Ok(value.clone())
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, String> {
        if depth >= MAX_DEPTH {
            return Err(too_deep());
        }
        let mut items = Vec::new();
        loop {
            let (event, span) = self.content()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            items.push(self.value(event, &span, depth + 1)?);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, String> {
        if depth >= MAX_DEPTH {
            return Err(too_deep());
        }
        let mut map = Map::new();
        let mut seen = BTreeSet::new();
        let mut merged: Vec<Value> = Vec::new();
        loop {
            let (event, span) = self.content()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let is_merge =
                matches!(&event, Event::Scalar(t, ScalarStyle::Plain, _, _) if t == "<<");
            let key = key_text(self.value(event, &span, depth + 1)?, line(&span))?;
            let (event, value_span) = self.content()?;
            let value = self.value(event, &value_span, depth + 1)?;
            if is_merge {
                merged.push(value);
                continue;
            }
            if !seen.insert(key.clone()) {
                let complaint = format!("  line {}: key \"{key}\" already set in map", line(&span));
                self.duplicates.push(complaint);
            }
            map.insert(key, value);
        }
        for source in merged {
            merge_into(&mut map, source)?;
        }
        Ok(Value::Object(map))
    }
}

/// `<<: *base` and `<<: [*a, *b]`: keys that are not there yet.
fn merge_into(map: &mut Map<String, Value>, source: Value) -> Result<(), String> {
    match source {
        Value::Object(entries) => {
            for (key, value) in entries {
                map.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(sources) if sources.iter().all(Value::is_object) => {
            sources.into_iter().try_for_each(|one| merge_into(map, one))
        }
        Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err("map merge requires map or sequence of maps as the value".into())
        }
    }
}

fn key_text(key: Value, line: usize) -> Result<String, String> {
    match key {
        Value::String(text) => Ok(text),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null => Ok("null".into()),
        Value::Array(_) | Value::Object(_) => Err(format!("line {line}: invalid map key")),
    }
}

/// How many values there are in a value, and how many levels.
fn measure(value: &Value) -> (usize, usize) {
    let children: Vec<(usize, usize)> = match value {
        Value::Array(items) => items.iter().map(measure).collect(),
        Value::Object(map) => map.values().map(measure).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return (1, 0),
    };
    let count = children.iter().map(|c| c.0).sum::<usize>() + 1;
    (count, children.iter().map(|c| c.1).max().unwrap_or(0) + 1)
}

fn too_deep() -> String {
    format!("exceeded max depth of {MAX_DEPTH}")
}

fn line(span: &Span) -> usize {
    span.start.line()
}

fn complaint(error: &ScanError) -> String {
    format!("line {}: {}", error.marker().line(), error.info())
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&str>) -> Result<Value, String> {
    let plain = matches!(style, ScalarStyle::Plain);
    match tag {
        Some("str" | "binary") => Ok(text.into()),
        Some(_) => resolve(text),
        None if plain => resolve(text),
        None => Ok(text.into()),
    }
}

/// What an unquoted scalar means in YAML 1.1.
fn resolve(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            return Ok(true.into());
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Ok(false.into());
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF"
        | ".nan" | ".NaN" | ".NAN" => return Err(format!("json: unsupported value: {text}")),
        _ => {}
    }
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    if numeric {
        let digits = text.replace('_', "");
        if let Some(number) = integer(&digits) {
            return Ok(number);
        }
        if is_float(&digits)
            && let Ok(value) = digits.parse::<f64>()
            && value.is_finite()
        {
            return Ok(super::float(value));
        }
    }
    Ok(text.into())
}

fn integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let (radix, digits) = if let Some(rest) = digits.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = digits.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = digits.strip_prefix("0o") {
        (8, rest)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, &digits[1..])
    } else {
        (10, digits)
    };
    let value = i128::from(u64::from_str_radix(digits, radix).ok()?);
    let value = if negative { -value } else { value };
    match (i64::try_from(value), u64::try_from(value)) {
        (Ok(small), _) => Some(small.into()),
        (Err(_), Ok(large)) => Some(super::unsigned(large)),
        (Err(_), Err(_)) => None,
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let mantissa_ok = match mantissa.split_once('.') {
        Some(("", fraction)) => all_digits(fraction),
        Some((whole, fraction)) => {
            all_digits(whole) && (fraction.is_empty() || all_digits(fraction))
        }
        None => all_digits(mantissa),
    };
    let exponent_ok = exponent.is_none_or(|e| all_digits(e.strip_prefix(['+', '-']).unwrap_or(e)));
    mantissa_ok && exponent_ok
}
