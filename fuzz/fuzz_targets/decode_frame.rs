//! Compressed bodies: any bytes decompress without a panic, to the size that they state, in memory
//! that is bounded by their own length. What was compressed decompresses to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seawall::fuzzing::{compress_body, decompress_body};
use seawall_fuzz::Input;

/// A byte stands for at most this many: a block of 4 bytes for 128 KiB.
const RATIO_MAX: usize = (128 << 10) / 4;
/// What the first block stands for at most.
const BLOCK_PLAIN_BYTES_MAX: usize = 128 << 10;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mode = input.byte();
    let codec = 1 + (mode & 1);
    match mode >> 1 & 3 {
        0 => any_bytes(codec, input.rest()),
        1 => round_trip(codec, input.rest()),
        _ => damaged(codec, input),
    }
});

fn any_bytes(codec: u8, body: &[u8]) {
    // Codecs that no program has given are not known.
    for other in [0, 3, 127, 128, 255] {
        assert_eq!(decompress_body(other, body), None);
    }
    let Some(plain) = decompress_body(codec, body) else { return };
    let stated = u32::from_le_bytes(body[..4].try_into().expect("four bytes"));
    assert_eq!(plain.len(), stated as usize, "the size is the one that the body states");
    assert!(plain.len() <= body.len() * RATIO_MAX + BLOCK_PLAIN_BYTES_MAX);
    assert!(plain.capacity() <= plain.len() + 64, "no more memory is taken");
    round_trip(codec, &plain);
}

fn round_trip(codec: u8, plain: &[u8]) {
    if plain.is_empty() {
        return; // A frame holds a record.
    }
    let body = compress_body(codec, plain).expect("each body can be compressed");
    assert!(decompress_body(codec, &body).expect("it was compressed") == plain);
    assert_eq!(decompress_body(codec, &body[..body.len() - 1]), None, "the body is cut");
}

/// Compresses, changes bytes, and decompresses.
fn damaged(codec: u8, mut input: Input<'_>) {
    let (at, change, repeat) = (input.word(), input.word(), input.byte());
    let plain = input.rest().repeat(1 + usize::from(repeat));
    if plain.is_empty() {
        return;
    }
    let mut body = compress_body(codec, &plain).expect("each body can be compressed");
    let [low, high] = change.to_le_bytes();
    let at = usize::from(at) % body.len();
    body[at] ^= low;
    let last = body.len() - 1;
    body[(at + 1).min(last)] ^= high;
    any_bytes(codec, &body);
}
