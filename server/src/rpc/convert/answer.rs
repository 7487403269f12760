//! Answers onto the wire.

use bytes::Bytes;
use marquee_engine::types::{Degradation, Explanation, Missing, SlateItem};
use marquee_proto::{Encoded, v1};
use prost::Message;

use crate::answer::{Answer, CacheStatus, Reply};

/// Numbers of the fields that differ in a repeated answer.
const SLATE_ID_FIELD: u32 = 1;
const CACHE_STATUS_FIELD: u32 = 7;
const DEGRADED_FIELD: u32 = 8;

/// The encoded answer of a fresh ranking.
pub(in crate::rpc) fn recommend_response(answer: &Answer) -> Bytes {
    let slate = &answer.slate;
    let response = v1::RecommendResponse {
        slate_id: answer.slate_id.clone(),
        results: results(&slate.items),
        next_page_token: answer.next_page_token.clone(),
        bundle_version: answer.bundle_version.clone(),
        variant: answer.variant.clone(),
        experiment_arms: Vec::new(),
        cache_status: status(answer.cache).into(),
        degraded: degraded(&slate.degraded),
        ranked_id: answer.slate_id.clone(),
        missing: missing(&slate.missing),
        short_reason: slate.short_reason.clone().unwrap_or_default(),
    };
    response.encode_to_vec().into()
}

/// The message to send: of a repeated ranking with its own slate id and cache status behind the cached bytes. Of a
/// singular field the last one counts, and the parts of a singular message are put together, so that nothing is decoded,
/// and nothing copied.
pub(in crate::rpc) fn append_identity(reply: &Reply) -> Encoded {
    let body = reply.body.clone();
    if reply.cache != CacheStatus::Hit && reply.degraded.is_none() {
        return body.into();
    }
    let mut tail = Vec::with_capacity(reply.slate_id.len() + 8);
    if reply.cache == CacheStatus::Hit {
        prost::encoding::string::encode(SLATE_ID_FIELD, &reply.slate_id, &mut tail);
        prost::encoding::int32::encode(CACHE_STATUS_FIELD, &status(CacheStatus::Hit).into(), &mut tail);
    }
    if let Some(degraded) = degraded(reply.degraded.as_slice()) {
        prost::encoding::message::encode(DEGRADED_FIELD, &degraded, &mut tail);
    }
    Encoded { body, tail: tail.into() }
}

fn status(cache: CacheStatus) -> v1::CacheStatus {
    match cache {
        CacheStatus::Miss => v1::CacheStatus::Miss,
        CacheStatus::Hit => v1::CacheStatus::Hit,
        CacheStatus::Bypass => v1::CacheStatus::Bypass,
    }
}

/// The items of a slate.
pub(in crate::rpc) fn results(items: &[SlateItem]) -> Vec<v1::Result> {
    let reason = |reason: &marquee_engine::types::Reason| v1::Reason {
        kind: reason.kind.to_owned(),
        item_id: reason.item.as_deref().unwrap_or_default().to_owned(),
        source: reason.source.to_owned(),
    };
    let result = |item: &SlateItem| v1::Result {
        item_id: item.id.to_string(),
        score: item.score.into(),
        reasons: item.reasons.iter().map(reason).collect(),
        explanation: item.explanation.as_ref().map(explanation),
    };
    items.iter().map(result).collect()
}

/// What the answer had to do without; absent when nothing.
pub(in crate::rpc) fn degraded(parts: &[Degradation]) -> Option<v1::Degraded> {
    let part = |part: &Degradation| v1::Degradation { what: part.what.clone(), why: part.why.clone() };
    (!parts.is_empty()).then(|| v1::Degraded { parts: parts.iter().map(part).collect() })
}

/// Why items are missing.
pub(in crate::rpc) fn missing(missing: &[Missing]) -> Vec<v1::Missing> {
    let one = |missing: &Missing| v1::Missing {
        item_id: missing.id.to_string(),
        stage: missing.stage.to_owned(),
        detail: missing.detail.clone(),
        explanation: missing.explanation.as_ref().map(explanation),
    };
    missing.iter().map(one).collect()
}

fn explanation(explanation: &Explanation) -> v1::Explanation {
    let value = |name: &str, value: f32| v1::FeatureValue { name: name.to_owned(), value: value.into() };
    let source = |(source, rank, score): &(&str, u32, f32)| v1::SourceEvidence {
        source: (*source).to_owned(),
        rank: i32::try_from(*rank).unwrap_or(i32::MAX),
        score: (*score).into(),
    };
    v1::Explanation {
        sources: explanation.sources.iter().map(source).collect(),
        features: explanation.features.iter().map(|&(name, number)| value(name, number)).collect(),
        blend_score: explanation.blend.into(),
        heads: explanation.heads.iter().map(|(name, number)| value(name, *number)).collect(),
        rules: explanation.rules.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Told;

    #[test]
    fn a_repeated_answer_has_its_own_id_and_the_first_ranking_s() {
        let answer = Answer {
            slate_id: "first".to_owned(),
            slate: Default::default(),
            next_page_token: "next".to_owned(),
            bundle_version: "b".to_owned(),
            variant: "default".to_owned(),
            cache: CacheStatus::Miss,
        };
        let reply = Reply {
            body: recommend_response(&answer),
            slate_id: "second".to_owned(),
            told: Told { variant: "default".into(), bundle_version: "b".into() },
            cache: CacheStatus::Hit,
            degraded: None,
        };
        let response = v1::RecommendResponse::decode(&*append_identity(&reply).encode_to_vec()).unwrap();
        assert_eq!((response.slate_id.as_str(), response.ranked_id.as_str()), ("second", "first"));
        assert_eq!(response.cache_status(), v1::CacheStatus::Hit);
        assert_eq!(response.next_page_token, "next");
    }
    #[test]
    fn what_a_repeat_had_to_do_without_joins_what_the_ranking_had() {
        let part = |what: &str| Degradation { what: what.to_owned(), why: "why".to_owned() };
        let slate = marquee_engine::types::Slate { degraded: vec![part("ranker")], ..Default::default() };
        let answer = Answer {
            slate_id: "first".to_owned(),
            slate,
            next_page_token: String::new(),
            bundle_version: String::new(),
            variant: String::new(),
            cache: CacheStatus::Miss,
        };
        for cache in [CacheStatus::Hit, CacheStatus::Miss] {
            let reply = Reply {
                body: recommend_response(&answer),
                slate_id: "second".to_owned(),
                told: Told { variant: Bytes::new(), bundle_version: Bytes::new() },
                cache,
                degraded: Some(part("cache")),
            };
            let response = v1::RecommendResponse::decode(&*append_identity(&reply).encode_to_vec()).unwrap();
            let parts: Vec<String> = response.degraded.unwrap().parts.into_iter().map(|part| part.what).collect();
            assert_eq!(parts, ["ranker", "cache"]);
        }
    }
}
