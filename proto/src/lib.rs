//! Marquee's gRPC API, package `marquee.v1`: generated messages, clients and servers, and the descriptors for reflection.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, skip_field},
};

/// Messages, clients and servers.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("marquee.v1");
}

/// The servers once more, with [`Encoded`] in place of `RecommendResponse` and `RecommendBatchResponse`: a cached
/// slate goes from the cache to the wire without being decoded. The wire format is the same.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod encoded {
    include!(concat!(env!("OUT_DIR"), "/encoded/marquee.v1.rs"));
}

/// The compiled protos (a `FileDescriptorSet`), for the reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// A message that is encoded already. It can only be sent: decoding into it skips everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded(pub Bytes);

impl Message for Encoded {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_message_is_sent_as_it_is() {
        let plain = v1::RecommendResponse { slate_id: "s".to_owned(), ..Default::default() }.encode_to_vec();
        assert_eq!(Encoded(plain.clone().into()).encode_to_vec(), plain);
    }

    #[test]
    fn later_fields_override_earlier_ones() {
        let first = v1::RecommendResponse { slate_id: "a".to_owned(), variant: "v".to_owned(), ..Default::default() };
        let mut bytes = first.encode_to_vec();
        bytes.extend(v1::RecommendResponse { slate_id: "b".to_owned(), ..Default::default() }.encode_to_vec());
        let both = v1::RecommendResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!((both.slate_id.as_str(), both.variant.as_str()), ("b", "v"));
    }
}
