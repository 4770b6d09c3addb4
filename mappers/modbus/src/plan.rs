//! Which registers to ask for together. Pure. Start at [`plan`].

use crate::{
    codec::{MAX_READ_COILS, MAX_READ_REGISTERS},
    config::Table,
};

/// Unwanted registers that are read along rather than asking twice: a request costs a round trip,
/// a register two bytes.
const REGISTER_GAP: u16 = 8;
/// The same for coils, which cost a bit.
const COIL_GAP: u16 = 64;

/// A stretch of registers or coils.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The table.
    pub table: Table,
    /// First address.
    pub start: u16,
    /// How many; at least 1, and `start + count` at most 65536.
    pub count: u16,
}

/// One read request and who waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What to ask for.
    pub span: Span,
    /// Indices into the spans that were planned.
    pub members: Vec<usize>,
}

/// What a connection has learned about its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Whether gaps may be read along.
    pub gaps: bool,
    /// Spans that the device refuses; asked for alone, so that they spoil no block.
    pub alone: std::collections::HashSet<Span>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { gaps: true, alone: std::collections::HashSet::new() }
    }
}

/// Merges neighbouring spans of one table into as few requests as the protocol's limits and the
/// rules allow. Every span is a member of exactly one block that covers it.
#[must_use]
pub fn plan(spans: &[Span], rules: &Rules) -> Vec<Block> {
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|index| spans[*index]);
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for index in order {
        let span = spans[index];
        let alone = rules.alone.contains(&span);
        let merged = match blocks.last() {
            Some(last) if open && !alone => merge(last.span, span, rules.gaps),
            _ => None,
        };
        match (merged, blocks.last_mut()) {
            (Some(merged), Some(last)) => {
                last.span = merged;
                last.members.push(index);
            }
            _ => blocks.push(Block { span, members: vec![index] }),
        }
        open = !alone;
    }
    blocks
}

/// The span that covers both, if one request can carry it.
fn merge(first: Span, second: Span, gaps: bool) -> Option<Span> {
    if first.table != second.table {
        return None;
    }
    let (most, gap) = if first.table.is_bits() {
        (MAX_READ_COILS, COIL_GAP)
    } else {
        (MAX_READ_REGISTERS, REGISTER_GAP)
    };
    let end = |span: Span| u32::from(span.start) + u32::from(span.count);
    let gap = if gaps { u32::from(gap) } else { 0 };
    if u32::from(second.start) > end(first) + gap {
        return None;
    }
    let count = u16::try_from(end(first).max(end(second)) - u32::from(first.start)).ok()?;
    (count <= most).then_some(Span { count, ..first })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(table: Table, start: u16, count: u16) -> Span {
        Span { table, start, count }
    }

    fn spans_of(blocks: &[Block]) -> Vec<(u16, u16)> {
        blocks.iter().map(|block| (block.span.start, block.span.count)).collect()
    }

    #[test]
    fn neighbours_and_near_neighbours_become_one_request() {
        let spans = [
            span(Table::Input, 1, 2),
            span(Table::Input, 0, 1),
            span(Table::Input, 11, 1),
            span(Table::Input, 21, 1),
        ];
        let blocks = plan(&spans, &Rules::default());
        assert_eq!(spans_of(&blocks), [(0, 12), (21, 1)]);
        assert_eq!(blocks[0].members, [1, 0, 2]);
    }

    #[test]
    fn tables_and_protocol_limits_part_requests() {
        let spans = [span(Table::Input, 0, 1), span(Table::Holding, 1, 1)];
        assert_eq!(plan(&spans, &Rules::default()).len(), 2);
        let many: Vec<_> = (0..300).map(|start| span(Table::Holding, start, 1)).collect();
        let blocks = plan(&many, &Rules::default());
        assert_eq!(spans_of(&blocks), [(0, 125), (125, 125), (250, 50)]);
        let coils: Vec<_> = (0..2001).map(|start| span(Table::Coil, start, 1)).collect();
        assert_eq!(spans_of(&plan(&coils, &Rules::default())), [(0, 2000), (2000, 1)]);
    }

    #[test]
    fn what_the_device_refused_is_asked_for_alone() {
        let spans: Vec<_> = (0..5).map(|start| span(Table::Holding, start, 1)).collect();
        let rules = Rules { gaps: true, alone: [spans[2]].into() };
        assert_eq!(spans_of(&plan(&spans, &rules)), [(0, 2), (2, 1), (3, 2)]);
        let apart = [span(Table::Holding, 0, 1), span(Table::Holding, 2, 1)];
        let rules = Rules { gaps: false, ..Rules::default() };
        assert_eq!(spans_of(&plan(&apart, &rules)), [(0, 1), (2, 1)]);
    }

    #[test]
    fn the_last_address_is_not_passed() {
        let spans = [span(Table::Holding, 65534, 1), span(Table::Holding, 65535, 1)];
        assert_eq!(spans_of(&plan(&spans, &Rules::default())), [(65534, 2)]);
    }

    fn any_span() -> impl Strategy<Value = Span> {
        let table = prop_oneof![Just(Table::Coil), Just(Table::Holding), Just(Table::Input)];
        (table, 0_u16..400, 1_u16..125).prop_map(|(table, start, count)| span(table, start, count))
    }

    proptest! {
        #[test]
        fn every_span_is_covered_once_and_no_request_is_too_long(
            spans in proptest::collection::vec(any_span(), 0..60), gaps in any::<bool>(),
            alone in proptest::collection::vec(any::<bool>(), 60),
        ) {
            let alone = spans.iter().zip(alone).filter(|(_, a)| *a).map(|(s, _)| *s).collect();
            let blocks = plan(&spans, &Rules { gaps, alone });
            let mut seen: Vec<usize> = blocks.iter().flat_map(|b| b.members.clone()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..spans.len()).collect::<Vec<_>>());
            for block in &blocks {
                let most = if block.span.table.is_bits() { 2000 } else { 125 };
                prop_assert!(block.span.count <= most);
                for member in &block.members {
                    let span = spans[*member];
                    prop_assert_eq!(span.table, block.span.table);
                    prop_assert!(span.start >= block.span.start);
                    prop_assert!(span.start + span.count <= block.span.start + block.span.count);
                }
            }
        }
    }
}
