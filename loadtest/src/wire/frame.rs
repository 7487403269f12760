//! gRPC's framing: one byte (0: not compressed), four bytes of length, the message.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// What goes before a message.
pub(crate) const HEAD_BYTES: usize = 5;

/// The framed message, cut off a larger buffer so that few calls allocate.
pub(crate) fn framed(message: &impl Message, buffer: &mut BytesMut) -> Bytes {
    let length = message.encoded_len();
    buffer.reserve(length + HEAD_BYTES);
    buffer.put_u8(0);
    buffer.put_u32(length as u32);
    message.encode(buffer).expect("room was reserved");
    buffer.split().freeze()
}

/// The messages of a body; ends early where a frame is cut.
pub(crate) fn messages(mut body: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (head, rest) = body.split_at_checked(HEAD_BYTES)?;
        let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
        let (message, rest) = rest.split_at_checked(length)?;
        body = rest;
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_framed_is_read() {
        let mut buffer = BytesMut::new();
        let mut body = framed(&"one".to_owned(), &mut buffer).to_vec();
        body.extend(framed(&String::new(), &mut buffer));
        let read: Vec<&[u8]> = messages(&body).collect();
        assert_eq!(read, ["one".to_owned().encode_to_vec().as_slice(), b""]);
        assert_eq!(messages(&body[..body.len() - 1]).count(), 1, "a cut frame is no message");
    }
}
