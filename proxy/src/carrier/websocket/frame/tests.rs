use super::*;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(MASKED | u8::try_from(short).unwrap()),
        medium @ 126..=0xffff => {
            bytes.push(MASKED | 0x7e);
            bytes.extend(u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            bytes.push(MASKED | LENGTH);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

/// Decodes in pieces of `size` bytes.
fn decode(bytes: &[u8], size: usize) -> Result<(Vec<u8>, Asked), Violation> {
    let (mut decoder, mut asked, mut data) = (Decoder::default(), Asked::default(), Vec::new());
    for piece in bytes.chunks(size) {
        let mut piece = piece.to_vec();
        let length = decoder.decode(&mut piece, &mut asked)?;
        data.extend(&piece[..length]);
    }
    Ok((data, asked))
}

#[test]
fn data_comes_out_whole_however_it_was_cut_and_framed() {
    let data: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let mut bytes = Vec::new();
    // One message in frames of all three lengths, a ping and an empty frame in between, then a
    // message of its own.
    let (a, rest) = data.split_at(7);
    let (b, rest) = rest.split_at(1000);
    let (c, d) = rest.split_at(100_000);
    bytes.extend(frame(BINARY, a));
    bytes.extend(frame(CONTINUATION, &[]));
    bytes.extend(frame(FIN | PING, b"are you there"));
    bytes.extend(frame(CONTINUATION, b));
    bytes.extend(frame(FIN | CONTINUATION, c));
    bytes.extend(frame(FIN | BINARY, d));
    for size in [1, 2, 3, 7, 1000, usize::MAX] {
        let (out, asked) = decode(&bytes, size.min(bytes.len())).unwrap();
        assert!(out == data, "in pieces of {size}");
        assert_eq!(asked.ping.unwrap().payload(), b"are you there");
    }
}

#[test]
fn payload_is_handed_on_before_its_frame_is_complete() {
    let bytes = frame(BINARY, b"client hello");
    let (out, _) = decode(&bytes[..bytes.len() - 3], 64).unwrap();
    assert_eq!(out, b"client he");
}

#[test]
fn nothing_after_a_close_counts() {
    let mut bytes = frame(FIN | CLOSE, &1000_u16.to_be_bytes());
    bytes.extend(frame(FIN | BINARY, b"late"));
    let (out, asked) = decode(&bytes, bytes.len()).unwrap();
    assert!(out.is_empty());
    let mut answer = Vec::new();
    close_answer(&asked.close.unwrap(), &mut answer);
    assert_eq!(answer, [FIN | CLOSE, 2, 0x03, 0xe8]);
}

#[test]
fn what_section_5_forbids_is_refused() {
    let refused = |bytes: &[u8]| decode(bytes, bytes.len()).err();
    assert_eq!(refused(&frame(FIN | TEXT, b"hi")), Some(Violation::Text));
    let protocol = |bytes: &[u8]| matches!(refused(bytes), Some(Violation::Protocol(_)));
    assert!(
        protocol(&frame(FIN | CONTINUATION, b"")),
        "nothing to continue"
    );
    assert!(protocol(&frame(FIN | BINARY | 0x40, b"")), "reserved bits");
    assert!(protocol(&frame(FIN | 0x3, b"")), "an unknown opcode");
    assert!(protocol(&frame(PING, b"")), "a control frame in parts");
    assert!(
        protocol(&frame(FIN | PING, &[0; 126])),
        "a control frame too long"
    );
    assert!(protocol(&frame(FIN | CLOSE, &[3])), "half a close code");
    assert!(protocol(&[FIN | BINARY, 1, 0]), "not masked");
    assert!(
        protocol(&[FIN | BINARY, 0xfe, 0, 5, 1, 2, 3, 4]),
        "a length in too many bytes"
    );
    let negative = [FIN | BINARY, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    assert!(protocol(&negative), "a length above 63 bits");
    let twice = [frame(BINARY, b"a"), frame(FIN | BINARY, b"b")].concat();
    assert!(protocol(&twice), "a message inside a message");
}
