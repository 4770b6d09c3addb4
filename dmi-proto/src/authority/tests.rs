//! The header blocks of known clients, and anything at all in pieces of any size.

use proptest::prelude::*;

use super::Overwrite;

/// What grpc-go 1.67 sent when it dialled `/tmp/kedge-dmi.sock` as KubeEdge's mappers do: HEADERS of
/// `MapperRegister`, `:authority` by its index with a Huffman value. Recorded.
const GO: &str = "838645a063b8632a4615ef97b9885d03a87316cdc5b3b98856340ebacb66d2cc6424b67f\
    41915458534d6a8b0f52c9315692932e8393af5f8b1d75d0620d263d4c4d65647a8a9acac8b4c7602bb8eae1400274\
    65864d833505b11f40899acac8b24d494f6a7f8613efbefb4e5b";

/// What Python's grpcio 1.85 sent for the same: `:authority` as a literal name with a plain value.
const PYTHON: &str = "40053a706174682c2f763162657461312e4465766963654d616e61676572536572766963652f\
    4d617070657252656769737465724\
    00a3a617574686f7269747914746d702532466b656467652d646d692e736f636b8386400c636f6e74656e742d74797065\
    106170706c69636174696f6e2f67727063400274650874726169\
    6c657273";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    stream.extend(frames.concat());
    stream
}

fn passed(stream: &[u8], piece: usize) -> Vec<u8> {
    let mut overwrite = Overwrite::default();
    let mut passed = stream.to_vec();
    for piece in passed.chunks_mut(piece) {
        overwrite.pass(piece);
    }
    passed
}

/// The block with the value of `:authority`, of which the first byte is at `value`, overwritten.
fn expected(block: &[u8], value: usize, length: usize) -> Vec<u8> {
    let mut block = block.to_vec();
    block[value - 1] = u8::try_from(length).unwrap();
    block[value..value + length].fill(b'x');
    block
}

fn find(block: &[u8], what: &[u8]) -> usize {
    block.windows(what.len()).position(|window| window == what).unwrap() + what.len()
}

#[test]
fn the_authority_of_a_go_client_is_overwritten_and_nothing_else() {
    let block = bytes(GO);
    let right = expected(&block, find(&block, &[0x41, 0x91]), 17);
    let sent = stream(&[frame(4, 0, &[]), frame(1, 4, &block), frame(0, 1, b"body")]);
    let wanted = stream(&[frame(4, 0, &[]), frame(1, 4, &right), frame(0, 1, b"body")]);
    assert_eq!(passed(&sent, sent.len()), wanted);
}

#[test]
fn the_authority_of_a_python_client_is_overwritten_and_nothing_else() {
    let block = bytes(PYTHON);
    let right = expected(&block, find(&block, b"\x0a:authority\x14"), 20);
    let sent = stream(&[frame(8, 0, &[0, 0, 0, 1]), frame(1, 4, &block), frame(0, 1, b"body")]);
    let wanted = stream(&[frame(8, 0, &[0, 0, 0, 1]), frame(1, 4, &right), frame(0, 1, b"body")]);
    assert_eq!(passed(&sent, sent.len()), wanted);
}

#[test]
fn pieces_of_any_size_come_out_the_same() {
    for block in [bytes(GO), bytes(PYTHON)] {
        let sent = stream(&[frame(1, 4, &block), frame(0, 1, b"body"), frame(1, 4, &block)]);
        let whole = passed(&sent, sent.len());
        assert_ne!(whole, sent);
        for piece in 1..60 {
            assert_eq!(passed(&sent, piece), whole, "in pieces of {piece}");
        }
    }
}

#[test]
fn a_block_split_over_frames_with_padding_and_priority_is_understood() {
    let block = bytes(GO);
    let right = expected(&block, find(&block, &[0x41, 0x91]), 17);
    for cut in 0..block.len() {
        let split = |block: &[u8]| {
            let mut first = vec![3, 0, 0, 0, 0, 16];
            first.extend(&block[..cut]);
            first.extend(*b"\x41\x81z");
            stream(&[frame(1, 0x28, &first), frame(9, 4, &block[cut..]), frame(6, 0, &[0; 8])])
        };
        assert_eq!(passed(&split(&block), 7), split(&right), "cut at {cut}");
    }
}

#[test]
fn a_long_value_is_overwritten_to_its_end() {
    let mut block = vec![0x01, 0x7f, 0xad, 0x01];
    block.extend([b'%'; 300]);
    block.push(0x83);
    let mut right = block.clone();
    right[4..304].fill(b'x');
    assert_eq!(passed(&stream(&[frame(1, 4, &block)]), 11), stream(&[frame(1, 4, &right)]));
}

#[test]
fn other_names_and_other_frames_are_left_alone() {
    let other = b"\x40\x0a:authoritx\x01%\x40\x09:authorit\x01%\x00\x0b:authority2\x01%\x3f\x01\x42\x01%\x7f\x80\x01\x01%\xff\x80\x01";
    let mut looks_like_it = b"\x41\x81%".to_vec();
    looks_like_it.extend(frame(1, 4, b"\x41\x01%"));
    let sent = stream(&[frame(1, 4, other), frame(0, 0, &looks_like_it), frame(1, 4, b"\x83")]);
    assert_eq!(passed(&sent, sent.len()), sent);
}

proptest! {
    #[test]
    fn rubbish_keeps_its_length_and_does_not_depend_on_the_pieces(
        kind in prop_oneof![Just(1u8), Just(9u8), any::<u8>()],
        flags: u8,
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..4),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
        piece in 1usize..50,
    ) {
        let frames: Vec<_> = payloads.iter().map(|payload| frame(kind, flags, payload)).collect();
        let mut sent = stream(&frames);
        sent.extend(tail);
        let whole = passed(&sent, sent.len());
        prop_assert_eq!(whole.len(), sent.len());
        prop_assert_eq!(passed(&sent, piece), whole);
    }
}
