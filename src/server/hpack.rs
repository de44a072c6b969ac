//! Header blocks of HTTP/2 (HPACK, RFC 7541): read with all that must be remembered for it, written so that nothing
//! must be.
//!
//! Only for connections on which fields have to be changed before the HTTP library sees them; it reads its own.

use std::collections::VecDeque;
use std::sync::Arc;

/// Where `:authority` stands among the known fields.
pub const AUTHORITY: usize = 1;
/// What a table may hold that nobody has asked to be smaller.
const TABLE_MAX: usize = 4096;
/// What a field weighs in a table beside its bytes.
const FIELD_WEIGHT: usize = 32;
/// Lengths of the names of the known fields, in their order.
const KNOWN: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];
/// The symbols of Huffman-coded text: the bits of their codes, and those with so many in the order of their codes,
/// which follow one another without a gap (appendix B).
const CODES: [(u32, &[u8]); 21] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\0$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, b"\\\xC3\xD0"),
    (20, b"\x80\x82\x83\xA2\xB8\xC2\xE0\xE2"),
    (21, b"\x99\xA1\xA7\xAC\xB0\xB1\xB3\xD1\xD8\xD9\xE3\xE5\xE6"),
    (
        22,
        b"\x81\x84\x85\x86\x88\x92\x9A\x9C\xA0\xA3\xA4\xA9\xAA\xAD\xB2\xB5\xB9\xBA\xBB\xBD\xBE\xC4\
          \xC6\xE4\xE8\xE9",
    ),
    (
        23,
        b"\x01\x87\x89\x8A\x8B\x8C\x8D\x8F\x93\x95\x96\x97\x98\x9B\x9D\x9E\xA5\xA6\xA8\xAE\xAF\xB4\
          \xB6\xB7\xBC\xBF\xC5\xE7\xEF",
    ),
    (24, b"\t\x8E\x90\x91\x94\x9F\xAB\xCE\xD7\xE1\xEC\xED"),
    (25, b"\xC7\xCF\xEA\xEB"),
    (26, b"\xC0\xC1\xC8\xC9\xCA\xCD\xD2\xD5\xDA\xDB\xEE\xF0\xF2\xF3\xFF"),
    (27, b"\xCB\xCC\xD3\xD4\xD6\xDD\xDE\xDF\xF1\xF4\xF5\xF6\xF7\xF8\xFA\xFB\xFC\xFD\xFE"),
    (
        28,
        b"\x02\x03\x04\x05\x06\x07\x08\x0B\x0C\x0E\x0F\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1A\x1B\
          \x1C\x1D\x1E\x1F\x7F\xDC\xF9",
    ),
    (30, b"\n\r\x16"),
];

/// A field's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// That of a known field.
    Known(usize),
    Other(Arc<[u8]>),
}

impl Name {
    fn len(&self) -> usize {
        match self {
            Self::Known(at) => usize::from(KNOWN[at - 1]),
            Self::Other(name) => name.len(),
        }
    }
}

/// A field of a header block, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A known field with its known value.
    Known(usize),
    Pair(Name, Arc<[u8]>),
}

impl Field {
    pub fn is_authority(&self) -> bool {
        match self {
            Self::Known(at) | Self::Pair(Name::Known(at), _) => *at == AUTHORITY,
            Self::Pair(Name::Other(name), _) => **name == *b":authority",
        }
    }

    /// What it weighs against limits, with a known value as nothing.
    fn weight(&self) -> usize {
        match self {
            Self::Known(_) => FIELD_WEIGHT,
            Self::Pair(name, value) => name.len() + value.len() + FIELD_WEIGHT,
        }
    }

    /// Appends the field in a form that leaves the reader's table alone.
    pub fn write(&self, block: &mut Vec<u8>) {
        match self {
            Self::Known(at) => block.push(0x80 | *at as u8),
            Self::Pair(name, value) => {
                match name {
                    Name::Known(at) => put_integer(block, 0, 4, *at),
                    Name::Other(name) => {
                        block.push(0);
                        put_string(block, name);
                    }
                }
                put_string(block, value);
            }
        }
    }
}

/// Reads the header blocks of one connection, each of them in its turn.
#[derive(Debug)]
pub struct Reader {
    /// The fields to be remembered, the newest first.
    table: VecDeque<Field>,
    weight: usize,
    max: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self { table: VecDeque::new(), weight: 0, max: TABLE_MAX }
    }
}

impl Reader {
    /// The fields of a block; those behind the first that goes beyond `weight_max` are left out. `None` if it is malformed.
    pub fn read(&mut self, block: &[u8], weight_max: usize) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        let (mut at, mut weight) = (0, 0);
        while let Some(&first) = block.get(at) {
            let field = match first {
                0x80.. => self.field(integer(block, &mut at, 7)?)?,
                0x20..0x40 => {
                    self.max = integer(block, &mut at, 5).filter(|max| *max <= TABLE_MAX)?;
                    self.evict();
                    continue;
                }
                0x40..0x80 => {
                    let field = self.literal(block, &mut at, 6)?;
                    self.remember(field.clone());
                    field
                }
                _ => self.literal(block, &mut at, 4)?,
            };
            let before = weight;
            weight += field.weight();
            if before <= weight_max {
                fields.push(field);
            }
        }
        Some(fields)
    }

    fn field(&self, at: usize) -> Option<Field> {
        match at {
            0 => None,
            1..=61 => Some(Field::Known(at)),
            _ => self.table.get(at - KNOWN.len() - 1).cloned(),
        }
    }

    fn literal(&self, block: &[u8], at: &mut usize, prefix: u32) -> Option<Field> {
        let name = match integer(block, at, prefix)? {
            0 => Name::Other(string(block, at)?),
            known => match self.field(known)? {
                Field::Known(known) => Name::Known(known),
                Field::Pair(name, _) => name,
            },
        };
        Some(Field::Pair(name, string(block, at)?))
    }

    fn remember(&mut self, field: Field) {
        self.weight += field.weight();
        self.table.push_front(field);
        self.evict();
    }

    fn evict(&mut self) {
        while self.weight > self.max
            && let Some(oldest) = self.table.pop_back()
        {
            self.weight -= oldest.weight();
        }
    }
}

/// An integer in the lowest bits of a byte and in those that follow (5.1).
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let max = (1 << prefix) - 1;
    let mut value = usize::from(*block.get(*at)?) & max;
    *at += 1;
    if value < max {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn put_integer(block: &mut Vec<u8>, flags: u8, prefix: u32, mut value: usize) {
    let max = (1 << prefix) - 1;
    if value < max {
        return block.push(flags | value as u8);
    }
    block.push(flags | max as u8);
    value -= max;
    while value >= 0x80 {
        block.push(0x80 | (value & 0x7F) as u8);
        value >>= 7;
    }
    block.push(value as u8);
}

/// A string, decoded (5.2).
fn string(block: &[u8], at: &mut usize) -> Option<Arc<[u8]>> {
    let is_huffman = *block.get(*at)? >= 0x80;
    let length = integer(block, at, 7)?;
    let bytes = block.get(*at..)?.get(..length)?;
    *at += length;
    if is_huffman { huffman(bytes).map(Arc::from) } else { Some(Arc::from(bytes)) }
}

fn put_string(block: &mut Vec<u8>, text: &[u8]) {
    put_integer(block, 0, 7, text.len());
    block.extend_from_slice(text);
}

/// The text of Huffman codes, or nothing if they end wrongly.
fn huffman(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(bytes.len() * 8 / 5);
    let (mut place, end) = (0, bytes.len() * 8);
    'symbols: while place < end {
        let ahead = bits_at(bytes, place);
        let (mut first, mut bits_before) = (0, 0);
        for (bits, symbols) in CODES {
            first <<= bits - bits_before;
            bits_before = bits;
            let offset = (ahead >> (32 - bits)).checked_sub(first)? as usize;
            if let Some(&symbol) = symbols.get(offset) {
                text.push(symbol);
                place += bits as usize;
                continue 'symbols;
            }
            first += symbols.len() as u32;
        }
        // Only ones are ahead, which no symbol has: the padding.
        return (end - place < 8).then_some(text);
    }
    (place == end).then_some(text)
}

/// The 32 bits from a place on, with ones behind the end, as the padding has.
fn bits_at(bytes: &[u8], place: usize) -> u32 {
    let mut ahead = [0xFF; 8];
    let rest = &bytes[place / 8..];
    let length = rest.len().min(5);
    ahead[..length].copy_from_slice(&rest[..length]);
    (u64::from_be_bytes(ahead) << (place % 8) >> 32) as u32
}

/// The Huffman codes of a text.
#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let mut bits = Vec::new();
    for symbol in text {
        let (mut first, mut bits_before) = (0, 0);
        for (length, symbols) in CODES {
            first <<= length - bits_before;
            bits_before = length;
            if let Some(offset) = symbols.iter().position(|known| known == symbol) {
                let code = first + offset as u32;
                bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
            }
            first += symbols.len() as u32;
        }
    }
    bits.resize(bits.len().next_multiple_of(8), true);
    bits.chunks(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_standard() {
        // RFC 7541, C.4.1 and C.6.1.
        let name = [0xF1, 0xE3, 0xC2, 0xE5, 0xF2, 0x3A, 0x6B, 0xA0, 0xAB, 0x90, 0xF4, 0xFF];
        assert_eq!(huffman(&name).expect("a name"), b"www.example.com");
        let url = [
            0x9D, 0x29, 0xAD, 0x17, 0x18, 0x63, 0xC7, 0x8F, 0x0B, 0x97, 0xC8, 0xE9, 0xAE, 0x82,
            0xAE, 0x43, 0xD3,
        ];
        assert_eq!(huffman(&url).expect("a URL"), b"https://www.example.com");
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(encode(&all).len(), 583, "as many bytes as all 256 codes have");
        assert_eq!(huffman(&encode(&all)).expect("all symbols"), all);
        for one in &all {
            assert_eq!(huffman(&encode(&[*one])).expect("a symbol"), [*one]);
        }
        assert_eq!(huffman(&[0xFF]), None, "padding of more than seven bits");
        assert_eq!(huffman(&[0xFF; 4]), None, "the code of the end");
        assert_eq!(huffman(&[0b0000_0000]), None, "padding that is not all ones");
        let counted: u64 = CODES.iter().map(|(bits, s)| (s.len() as u64) << (30 - bits)).sum();
        assert_eq!(counted, (1 << 30) - 1, "all that 30 bits can say, but for the end");
    }

    fn pair(name: &[u8], value: &[u8]) -> Field {
        Field::Pair(Name::Other(Arc::from(name)), Arc::from(value))
    }

    fn known(at: usize, value: &[u8]) -> Field {
        Field::Pair(Name::Known(at), Arc::from(value))
    }

    #[test]
    fn requests_of_the_standard_are_read_with_what_they_remember() {
        let mut reader = Reader::default();
        // RFC 7541, C.3.
        let first = [&[0x82, 0x86, 0x84, 0x41, 0x0F][..], b"www.example.com"].concat();
        let request = |more: &[Field]| {
            let fields = [2, 6, 4].map(Field::Known);
            [&fields[..], &[known(1, b"www.example.com")], more].concat()
        };
        assert_eq!(reader.read(&first, 9999), Some(request(&[])));
        assert_eq!(reader.weight, 57);
        let second = [&[0x82, 0x86, 0x84, 0xBE, 0x58, 0x08][..], b"no-cache"].concat();
        assert_eq!(reader.read(&second, 9999), Some(request(&[known(24, b"no-cache")])));
        assert_eq!(reader.weight, 110);
        let third = [&[0x82, 0x87, 0x85, 0xBF, 0x40, 0x0A][..], b"custom-key\x0Ccustom-value"];
        let third = reader.read(&third.concat(), 9999).expect("fields");
        assert_eq!(
            third[3..],
            [known(1, b"www.example.com"), pair(b"custom-key", b"custom-value")]
        );
        assert_eq!(reader.weight, 164);
    }

    #[test]
    fn what_does_not_fit_is_forgotten() {
        let mut reader = Reader::default();
        // A table of 64 + 32 bytes, then four fields of 3 + 1 + 32.
        let mut block = vec![0x3F, 0x41];
        for value in b"abcd" {
            block.extend([0x40, 3, b'k', b'e', b'y', 1, *value]);
        }
        reader.read(&block, 9999).expect("fields");
        assert_eq!((reader.table.len(), reader.weight), (2, 72));
        assert_eq!(
            reader.read(&[0xBE, 0xBF], 9999),
            Some(vec![pair(b"key", b"d"), pair(b"key", b"c")])
        );
        assert_eq!(reader.read(&[0xC0], 9999), None);
        let named = reader.read(&[0x7F, 0x00, 1, b'e'], 9999);
        assert_eq!(named, Some(vec![pair(b"key", b"e")]), "with the name of a remembered field");
        let long = [&[0x40, 1, b'k', 90][..], &[b'v'; 90]].concat();
        assert_eq!(reader.read(&long, 9999).map(|fields| fields.len()), Some(1));
        assert!(reader.table.is_empty(), "what is larger than the table empties it");
        assert_eq!(reader.read(&[0x3F, 0xE1, 0x1F], 9999), Some(vec![]));
        assert_eq!(reader.max, 4096);
        assert_eq!(reader.read(&[0x3F, 0xE2, 0x1F], 9999), None, "larger than it may be");
    }

    #[test]
    fn fields_survive_being_written_anew() {
        let long = vec![b'v'; 5000];
        let fields = vec![
            Field::Known(2),
            Field::Known(61),
            known(1, b"a"),
            known(58, b"grpc-go"),
            known(15, &long),
            pair(b":path", b""),
            pair(&long, b"\xFF\0"),
        ];
        let mut block = Vec::new();
        fields.iter().for_each(|field| field.write(&mut block));
        let mut reader = Reader::default();
        assert_eq!(reader.read(&block, 99_999), Some(fields.clone()));
        assert!(reader.table.is_empty());
        assert_eq!(reader.read(&block, 200), Some(fields[..5].to_vec()), "as many as may be");
    }

    #[test]
    fn damaged_blocks_are_malformed_at_worst() {
        let name = encode(b":authority");
        let block = [
            &[0x82, 0x3F, 0x41, 0x41, 0x03, b'a', b'/', b'b', 0xBE, 0x40, 0x80 | name.len() as u8]
                [..],
            &name,
            &[3],
            b"a/b",
            &[0x10, 1, b'x', 1, b'y'],
        ]
        .concat();
        assert!(Reader::default().read(&block, 9999).is_some());
        for at in 0..block.len() {
            for byte in 0..=u8::MAX {
                let mut damaged = block.clone();
                damaged[at] = byte;
                Reader::default().read(&damaged, 9999);
            }
            Reader::default().read(&block[..at], 9999);
        }
    }
}
