//! Frames: any bytes decode without a panic and have one meaning. An encoded frame decodes again.
//! It does not decode with a single changed bit, or at another offset.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seawall::fuzzing::{
    Body, decode_frame, encode_records, encode_state_frame, recode_current, recode_segment_header,
};
use seawall::{Entry, Lsn};
use seawall_fuzz::Input;
use seawall_fuzz::format::{
    BLOCK, CURRENT_MAGIC, FRAMES, SEGMENT_MAGIC, Seal, put, seal_block, seal_frames,
};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    match input.byte() % 4 {
        0 => any_bytes(input),
        1 => any_block(input),
        _ => round_trip(input),
    }
});

fn salt(input: &mut Input<'_>) -> [u8; 16] {
    let mut salt = [0xa5; 16];
    put(&mut salt, 0, input.take(4));
    salt
}

/// Decodes the bytes as they are, and with right checksums. A header may still have any values.
fn any_bytes(mut input: Input<'_>) {
    let salt = salt(&mut input);
    check_one(input.rest(), &salt, 8192);
    let mut segment = vec![0; FRAMES];
    segment.extend_from_slice(input.rest());
    seal_frames(&mut segment, &salt, 1, Seal::Checksums);
    check_one(&segment[FRAMES..], &salt, FRAMES as u64);
}

fn check_one(bytes: &[u8], salt: &[u8; 16], offset: u64) {
    let Some(frame) = decode_frame(bytes, salt, offset) else { return };
    assert!(frame.bytes <= bytes.len() as u64 && frame.bytes % 8 == 0);
    let again = match &frame.body {
        Body::Records(records) => {
            // The reader refuses records that do not add up. All other records have one encoding.
            let encoded = encode_records(
                std::slice::from_ref(records),
                frame.first,
                salt,
                offset,
                frame.durable_end,
            );
            let adds_up =
                records.len() == frame.count as usize && encoded.len() as u64 == frame.bytes;
            if !adds_up || encoded[8..16] != bytes[8..16] {
                return;
            }
            encoded
        }
        Body::Compressed(..) => return, // The target `decode_frame` has these.
        Body::State(floor, state) => {
            encode_state_frame(salt, offset, frame.durable_end, frame.first, *floor, state)
        }
    };
    assert!(again == bytes[..again.len()], "one frame, one encoding: {frame:?}");
}

/// Decodes a header or CURRENT with right checksums. Encoding the result gives the same bytes.
fn any_block(mut input: Input<'_>) {
    let kind = input.byte();
    let is_current = kind & 1 != 0;
    let mut blocks = vec![0; 2 * BLOCK];
    for at in [0, BLOCK] {
        put(&mut blocks, at, if is_current { CURRENT_MAGIC } else { SEGMENT_MAGIC });
        blocks[at + 8] = 1;
        let shown = if kind & 2 != 0 && at > 0 { input.take(1) } else { input.rest() };
        let shown = &shown[..shown.len().min(200)];
        put(&mut blocks, at + 10, shown);
        if kind & 4 == 0 {
            seal_block(&mut blocks, at);
        }
    }
    blocks.truncate(blocks.len() - usize::from(kind >> 4) * 300);
    let recode = if is_current { recode_current } else { recode_segment_header };
    let Some(first) = recode(&blocks) else { return };
    assert_eq!(recode(&first).as_ref(), Some(&first), "an encoded block decodes again");
    assert!(first[..BLOCK] == first[BLOCK..], "the copy equals the block");
}

/// Encodes and decodes appends of the input's choice, and then damages them.
fn round_trip(mut input: Input<'_>) {
    let salt = salt(&mut input);
    let (flip, place) = (input.word(), input.word());
    let offset = 8192 + u64::from(input.byte()) * 8;
    let durable_end = u64::from(input.word());
    if input.byte() & 1 != 0 {
        let (next, floor) =
            (Lsn::from(u64::from(input.word())), Lsn::from(u64::from(input.word())));
        let state = input.rest();
        let bytes = encode_state_frame(&salt, offset, durable_end, next, floor, state);
        let frame = decode_frame(&bytes, &salt, offset).expect("an encoded frame decodes");
        assert_eq!((frame.first, frame.durable_end, frame.count), (next, durable_end, 0));
        assert_eq!(frame.body, Body::State(floor, state.to_vec()));
        return damaged(&bytes, &salt, offset, flip, place);
    }
    let first = Lsn::from(1 + u64::from(input.word()));
    let mut appends: Vec<Vec<Entry<'_>>> = Vec::new();
    while !input.is_empty() && appends.len() < 24 {
        let count = [1, 1, 1, 2, 3, 9][input.below(6)];
        appends.push((0..count).map(|_| entry(&mut input)).collect());
    }
    let bytes = encode_records(&appends, first, &salt, offset, durable_end);
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let frame = decode_frame(&bytes[at..], &salt, offset + at as u64)
            .expect("an encoded frame decodes");
        assert_eq!(u64::from(frame.first), u64::from(first) + found.len() as u64, "LSNs are dense");
        assert_eq!(frame.durable_end, durable_end);
        let Body::Records(records) = frame.body else { panic!("a data frame holds records") };
        assert_eq!(records.len(), frame.count as usize);
        found.extend(records);
        at += usize::try_from(frame.bytes).expect("the frame is in memory");
    }
    assert!(found == appends.concat(), "the appended records are there, in their order");
    damaged(&bytes, &salt, offset, flip, place);
}

fn entry<'a>(input: &mut Input<'a>) -> Entry<'a> {
    let (shape, length) = (input.byte(), usize::from(input.byte()));
    let payload = match shape % 8 {
        0 => Vec::new(),
        1 => vec![shape; length * 9],
        2 => vec![shape; length * 300],
        _ => input.take(length).to_vec(),
    };
    let meta = if shape & 16 != 0 { input.take(usize::from(shape >> 5)) } else { &[] };
    Entry::new(payload).with_meta(meta).with_kind(u16::from(shape))
}

fn damaged(bytes: &[u8], salt: &[u8; 16], offset: u64, flip: u16, place: u16) {
    let Some(frame) = decode_frame(bytes, salt, offset) else { return };
    let frame = &bytes[..usize::try_from(frame.bytes).expect("the frame is in memory")];
    let mut changed = frame.to_vec();
    changed[usize::from(flip) % frame.len()] ^= 1 << (place % 8);
    assert_eq!(decode_frame(&changed, salt, offset), None, "a bit was changed");
    assert_eq!(
        decode_frame(frame, salt, offset + 8 * (1 + u64::from(place))),
        None,
        "the frame is at another offset"
    );
    let mut other = *salt;
    other[usize::from(place % 16)] ^= 1 << (flip % 8);
    assert_eq!(decode_frame(frame, &other, offset), None, "the frame belongs to another segment");
    assert_eq!(decode_frame(&frame[..frame.len() - 1], salt, offset), None, "the frame is cut");
}
