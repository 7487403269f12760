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

/// A message that is encoded already, in two parts, so that many can share the first. It can only be sent: decoding into
/// it skips everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded {
    /// The fields.
    pub body: Bytes,
    /// Further fields; of a singular one the last counts.
    pub tail: Bytes,
}

impl From<Bytes> for Encoded {
    fn from(body: Bytes) -> Encoded {
        Encoded { body, tail: Bytes::new() }
    }
}

impl From<Vec<u8>> for Encoded {
    fn from(body: Vec<u8>) -> Encoded {
        Encoded::from(Bytes::from(body))
    }
}

impl Message for Encoded {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.body);
        buffer.put_slice(&self.tail);
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
        self.body.len() + self.tail.len()
    }

    fn clear(&mut self) {
        *self = Encoded::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_message_is_sent_as_it_is() {
        let plain = v1::RecommendResponse { slate_id: "s".to_owned(), ..Default::default() }.encode_to_vec();
        assert_eq!(Encoded::from(plain.clone()).encode_to_vec(), plain);
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
