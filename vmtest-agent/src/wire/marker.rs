//! The byte sequence that starts a stream anew.

/// What precedes a hello and its answer: 16 different bytes, none below 0x80.
pub const MARKER: [u8; 16] = [
    0xf6, 0x9b, 0xd1, 0x84, 0xe3, 0xbc, 0x97, 0xc8, 0xfd, 0x8a, 0xa5, 0xd9, 0xee, 0x91, 0xb2, 0xcf,
];

/// Where in the marker each byte stands; 16 where it does not.
const PLACES: [u8; 256] = {
    let mut places = [16; 256];
    let mut at = 0;
    while at < MARKER.len() {
        places[MARKER[at] as usize] = at as u8;
        at += 1;
    }
    places
};

/// Where the first whole marker in `bytes` begins.
///
/// Looks at one byte in sixteen: its bytes being different, each of them says where the marker would begin.
pub fn find_marker(bytes: &[u8]) -> Option<usize> {
    let mut at = MARKER.len() - 1;
    while let Some(&byte) = bytes.get(at) {
        let place = usize::from(PLACES[usize::from(byte)]);
        if place < MARKER.len() && bytes[at - place..].starts_with(&MARKER) {
            return Some(at - place);
        }
        at += MARKER.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_found_at_every_offset_and_not_without_its_last_byte() {
        for offset in 0..100 {
            for after in [0, 1, 15, 16, 40] {
                let mut bytes = vec![MARKER[3]; offset];
                bytes.extend(MARKER);
                bytes.extend(vec![MARKER[0]; after]);
                assert_eq!(
                    find_marker(&bytes),
                    Some(offset),
                    "{offset} before, {after} after"
                );
                bytes[offset + 15] = 0xff;
                assert_eq!(find_marker(&bytes), None);
            }
        }
    }

    #[test]
    fn its_bytes_differ_and_cannot_begin_or_end_a_frame() {
        for (at, byte) in MARKER.iter().enumerate() {
            assert!(*byte >= 0x80);
            assert!(!MARKER[..at].contains(byte));
        }
        const { assert!(super::super::END < 0x80) };
    }
}
