//! RecommendationService.

use std::sync::Arc;

use bytes::BytesMut;
use marquee_proto::encoded::recommendation_service_server::RecommendationService;
use marquee_proto::{Encoded, v1};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};

use super::convert::{self, Refine};
use super::gate::Arrival;
use crate::answer::{Ask, CacheStatus, Desk, Told};
use crate::error::{Error, Result};

/// Answers from the desk.
pub(super) struct Recommendation {
    pub(super) desk: Arc<Desk>,
}

#[tonic::async_trait]
impl RecommendationService for Recommendation {
    async fn recommend(&self, request: Request<v1::RecommendRequest>) -> Result<Response<Encoded>, Status> {
        let refine = refine(&request)?;
        let ask = convert::recommend(request.into_inner(), &refine, &self.desk.config)?;
        let reply = self.desk.answer(ask, convert::recommend_response).await?;
        let mut response = Response::new(convert::append_identity(&reply));
        tell(response.metadata_mut(), reply.told, reply.cache);
        Ok(response)
    }

    type RecommendBatchStream = ReceiverStream<Result<Encoded, Status>>;

    async fn recommend_batch(
        &self,
        request: Request<v1::RecommendBatchRequest>,
    ) -> Result<Response<Self::RecommendBatchStream>, Status> {
        let refine = refine(&request)?;
        let requests = request.into_inner().requests;
        let most = self.desk.config.limits.batch_max_requests;
        convert::count_in("requests", requests.len(), ("batch_max_requests", most))?;
        // As many at once as there are threads: one batch must not fill the queue that single requests wait in.
        let workers = self.desk.pool.threads().min(requests.len()).max(1);
        let (answers, stream) = mpsc::channel(workers);
        let requests = Arc::new(std::sync::Mutex::new(requests.into_iter().enumerate()));
        for _ in 0..workers {
            let (desk, refine, answers, requests) =
                (self.desk.clone(), refine.clone(), answers.clone(), requests.clone());
            let next = move || requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            tokio::spawn(async move {
                while let Some((index, request)) = next() {
                    let answer = one_of_batch(&desk, index, request, &refine).await;
                    if answers.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn similar_items(
        &self,
        request: Request<v1::SimilarItemsRequest>,
    ) -> Result<Response<v1::SimilarItemsResponse>, Status> {
        let refine = refine(&request)?;
        let ask = convert::similar(request.into_inner(), &refine, &self.desk.config)?;
        let answer = self.desk.answer_anew(ask).await?;
        let mut response = Response::new(v1::SimilarItemsResponse {
            results: convert::results(&answer.slate.items),
            bundle_version: answer.bundle_version.clone(),
            slate_id: answer.slate_id,
            degraded: convert::degraded(&answer.slate.degraded),
            short_reason: answer.slate.short_reason.unwrap_or_default(),
        });
        tell(response.metadata_mut(), told(answer.variant, answer.bundle_version), answer.cache);
        Ok(response)
    }

    async fn rank_items(
        &self,
        request: Request<v1::RankItemsRequest>,
    ) -> Result<Response<v1::RankItemsResponse>, Status> {
        let refine = refine(&request)?;
        let ask = convert::rank(request.into_inner(), &refine, &self.desk.config)?;
        let answer = self.desk.answer_anew(ask).await?;
        let is_missing = |missing: &v1::Missing| missing.stage != "none";
        let mut response = Response::new(v1::RankItemsResponse {
            slate_id: answer.slate_id,
            results: convert::results(&answer.slate.items),
            bundle_version: answer.bundle_version.clone(),
            variant: answer.variant.clone(),
            degraded: convert::degraded(&answer.slate.degraded),
            missing: convert::missing(&answer.slate.missing).into_iter().filter(is_missing).collect(),
        });
        tell(response.metadata_mut(), told(answer.variant, answer.bundle_version), answer.cache);
        Ok(response)
    }
}

/// One answer of a batch, as a `RecommendBatchResponse` made of bytes that are encoded already.
async fn one_of_batch(desk: &Arc<Desk>, index: usize, request: v1::RecommendRequest, refine: &Refine) -> Encoded {
    const RESPONSE_FIELD: u32 = 2;
    let reply = async {
        // Its turn in the batch is when it arrives.
        let refine = Refine { received: Some(std::time::Instant::now()), ..refine.clone() };
        let ask: Ask = convert::recommend(request, &refine, &desk.config)?;
        desk.answer(ask, convert::recommend_response).await
    };
    let reply = match refine.deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), reply).await.unwrap_or(Err(Error::DeadlineExceeded)),
        None => reply.await,
    };
    let index = i32::try_from(index).expect("a batch is bounded");
    let mut head = v1::RecommendBatchResponse { index, answer: None };
    match reply {
        Ok(reply) => {
            let answer = convert::append_identity(&reply);
            let length = answer.encoded_len();
            let mut bytes = BytesMut::with_capacity(length + 16);
            head.encode(&mut bytes).expect("the buffer grows");
            encode_key(RESPONSE_FIELD, WireType::LengthDelimited, &mut bytes);
            encode_varint(length as u64, &mut bytes);
            answer.encode(&mut bytes).expect("the buffer grows");
            bytes.freeze().into()
        }
        Err(error) => {
            let status = Status::from(error);
            let error = v1::RequestError { code: status.code().into(), message: status.message().to_owned() };
            head.answer = Some(v1::recommend_batch_response::Answer::Error(error));
            head.encode_to_vec().into()
        }
    }
}

const VARIANT: &str = "x-marquee-variant";

/// What the metadata and the gate add to a message.
fn refine<T>(request: &Request<T>) -> Result<Refine> {
    let variant = request.metadata().get(VARIANT).map(|value| value.to_str().map(str::to_owned)).transpose();
    let variant = variant.map_err(|_| Error::invalid(VARIANT, "must be ASCII"))?;
    let arrival = request.extensions().get::<Arrival>();
    let (received, deadline) = (arrival.map(|arrival| arrival.received), arrival.map(|arrival| arrival.deadline));
    Ok(Refine { variant: variant.filter(|name| !name.is_empty()), deadline, received })
}

fn told(variant: String, bundle_version: String) -> Told {
    Told { variant: variant.into(), bundle_version: bundle_version.into() }
}

/// Variant and bundle for callers, and proxies between, that do not read the message.
fn tell(metadata: &mut MetadataMap, told: Told, cache: CacheStatus) {
    for (name, value) in [(VARIANT, told.variant), ("x-marquee-bundle", told.bundle_version)] {
        if let Ok(value) = MetadataValue::try_from(value) {
            metadata.insert(name, value);
        }
    }
    metadata.insert("x-marquee-cache", MetadataValue::from_static(cache.name()));
}
