//! The formats that are enforced on strings; unknown ones are ignored.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Whether `text` is of the named format; `true` for formats nobody knows.
pub(super) fn is_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => is_date_time(text),
        "date" => is_date(text),
        "duration" => is_duration(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "email" => is_email(text),
        "uri" => is_uri(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some(b'3')),
        "uuid4" => is_uuid(text, Some(b'4')),
        "uuid5" => is_uuid(text, Some(b'5')),
        "byte" => STANDARD.decode(text).is_ok(),
        "hostname" => is_hostname(text),
        "mac" => is_mac(text),
        "bsonobjectid" => text.len() == 24 && all_hex(text),
        "hexcolor" => is_hex_color(text),
        "creditcard" => is_card_number(text),
        _ => true,
    }
}

/// Whether a text is an RFC 3339 date-time with seconds and a zone.
#[must_use]
pub fn is_date_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let Some(separator) = bytes.get(10) else { return false };
    let (Some(date), Some(time)) = (text.get(..10), text.get(11..)) else { return false };
    if !separator.eq_ignore_ascii_case(&b't') || !is_date(date) {
        return false;
    }
    let zone_at = time.find(['Z', 'z', '+', '-']);
    let Some((clock, zone)) = zone_at.map(|at| time.split_at(at)) else { return false };
    is_clock(clock) && is_zone(zone)
}

fn is_clock(text: &str) -> bool {
    let (clock, fraction) = match text.split_once('.') {
        Some((clock, fraction)) => (clock, Some(fraction)),
        None => (text, None),
    };
    let parts: Vec<Option<u32>> = clock.split(':').map(two_digits).collect();
    let clock_ok = matches!(parts.as_slice(),
        [Some(h), Some(m), Some(s)] if *h < 24 && *m < 60 && *s <= 60);
    clock_ok && fraction.is_none_or(all_digits)
}

fn is_zone(text: &str) -> bool {
    if text.eq_ignore_ascii_case("z") {
        return true;
    }
    let offset = text.get(1..).unwrap_or_default();
    let parts: Vec<Option<u32>> = offset.split(':').map(two_digits).collect();
    matches!(parts.as_slice(), [Some(h), Some(m)] if *h < 24 && *m < 60)
}

fn two_digits(text: &str) -> Option<u32> {
    (text.len() == 2 && all_digits(text)).then(|| text.parse().ok())?
}

fn is_date(text: &str) -> bool {
    let shape = text.len() == 10
        && text.bytes().enumerate().all(|(i, b)| match i {
            4 | 7 => b == b'-',
            _ => b.is_ascii_digit(),
        });
    shape && text.parse::<jiff::civil::Date>().is_ok()
}

/// Go durations (`1h30m`, `1.5s`) and words such as `3 days`.
fn is_duration(text: &str) -> bool {
    is_go_duration(text) || is_worded_duration(text)
}

fn is_go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, tail) = rest.split_at(number);
        let valid = digits.bytes().any(|b| b.is_ascii_digit())
            && digits.bytes().filter(|b| *b == b'.').count() <= 1;
        let unit = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"]
            .into_iter()
            .find(|unit| tail.starts_with(unit));
        match unit {
            Some(unit) if valid => rest = &tail[unit.len()..],
            Some(_) | None => return false,
        }
    }
    true
}

fn is_worded_duration(text: &str) -> bool {
    let text = text.trim();
    let number = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(number);
    let unit = unit.trim_start().to_ascii_lowercase();
    let units = [
        "ns",
        "nano",
        "nanosecond",
        "us",
        "µs",
        "micro",
        "microsecond",
        "ms",
        "milli",
        "millisecond",
        "s",
        "sec",
        "second",
        "m",
        "min",
        "minute",
        "h",
        "hr",
        "hour",
        "d",
        "day",
        "w",
        "wk",
        "week",
    ];
    !digits.is_empty() && units.iter().any(|u| unit == *u || unit == format!("{u}s"))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let limit = if address.parse::<Ipv4Addr>().is_ok() {
        32
    } else if address.parse::<Ipv6Addr>().is_ok() {
        128
    } else {
        return false;
    };
    all_digits(bits) && bits.parse::<u8>().is_ok_and(|n| n <= limit)
}

fn is_email(text: &str) -> bool {
    let address = match (text.find('<'), text.strip_suffix('>')) {
        (Some(at), Some(inner)) => inner.get(at + 1..).unwrap_or_default(),
        _ => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b) || b > 127;
    let dotted = |s: &str| !s.is_empty() && s.split('.').all(|part| !part.is_empty());
    dotted(local) && dotted(domain) && local.bytes().all(atom) && domain.bytes().all(atom)
}

/// An absolute URI or an absolute path, as Go's ParseRequestURI takes them.
fn is_uri(text: &str) -> bool {
    if text.bytes().any(|b| b < 0x20 || b == 0x7f || b == b' ') {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let mut letters = scheme.bytes();
    letters.next().is_some_and(|b| b.is_ascii_alphabetic())
        && letters.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        && !rest.is_empty()
}

fn is_uuid(text: &str, version: Option<u8>) -> bool {
    let hex: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    let dashes_ok = match text.len() {
        32 => true,
        36 => [8, 13, 18, 23].iter().all(|i| text.as_bytes().get(*i) == Some(&b'-')),
        _ => false,
    };
    dashes_ok
        && hex.len() == 32
        && hex.iter().all(u8::is_ascii_hexdigit)
        && version.is_none_or(|v| hex.get(12) == Some(&v))
}

fn is_hostname(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    !text.is_empty() && text.len() <= 255 && text.split('.').all(label)
}

fn is_mac(text: &str) -> bool {
    let separator = if text.contains(':') { ':' } else { '-' };
    let parts: Vec<&str> = text.split(separator).collect();
    [6, 8, 20].contains(&parts.len()) && parts.iter().all(|p| p.len() == 2 && all_hex(p))
}

fn is_hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    [3, 6].contains(&digits.len()) && all_hex(digits)
}

/// Digits with the check sum of payment cards.
fn is_card_number(text: &str) -> bool {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !" -".contains(*c))
        .map(|c| c.to_digit(10).unwrap_or(u32::MAX))
        .collect();
    if !(13..=19).contains(&digits.len()) || digits.contains(&u32::MAX) {
        return false;
    }
    let doubled = |d: u32| if d > 4 { d * 2 - 9 } else { d * 2 };
    let weigh = |(i, d): (usize, &u32)| if i % 2 == 1 { doubled(*d) } else { *d };
    digits.iter().rev().enumerate().map(weigh).sum::<u32>() % 10 == 0
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn all_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}
