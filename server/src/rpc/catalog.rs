//! CatalogService.

use std::sync::Arc;

use marquee_proto::encoded::catalog_service_server::CatalogService;
use marquee_proto::v1;
use prost::Message;
use tonic::{Request, Response, Status};

use super::{auth, convert};
use crate::clock::Clock;
use crate::config::{Limits, Secret};
use crate::error::{Error, Result};
use crate::events::{check, token};
use crate::store::Store;

/// Entries of a page when the caller does not say.
pub(super) const PAGE_DEFAULT_ENTRIES: usize = 100;

/// Reads and writes items. The world follows by itself.
pub(super) struct Catalog {
    pub(super) store: Arc<dyn Store>,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    /// Of one answer; a page of a list ends before it.
    pub(super) message_max_bytes: usize,
    /// A deletion is for ever: it needs the token.
    pub(super) admin_token: Option<Secret>,
}

#[tonic::async_trait]
impl CatalogService for Catalog {
    async fn upsert_items(
        &self,
        request: Request<v1::UpsertItemsRequest>,
    ) -> Result<Response<v1::UpsertItemsResponse>, Status> {
        let items = request.into_inner().items;
        convert::count_in("items", items.len(), ("items_max_per_call", self.limits.items_max_per_call))?;
        let item = |(at, item)| {
            let item = convert::item_in(item).and_then(|item| check::item(&item, &self.limits).map(|()| item));
            item.map_err(|error: Error| error.within(&format!("items[{at}].")))
        };
        let items = items.into_iter().enumerate().map(item).collect::<Result<Vec<_>>>()?;
        let now_ms = self.clock.now_ms();
        let upserted = self.store.upsert_items(items, Some(now_ms), now_ms).await?;
        Ok(Response::new(v1::UpsertItemsResponse { write_token: token::encode(upserted.seq) }))
    }

    async fn delete_items(
        &self,
        request: Request<v1::DeleteItemsRequest>,
    ) -> Result<Response<v1::DeleteItemsResponse>, Status> {
        auth::check(request.metadata(), self.admin_token.as_ref())?;
        let ids = self.ids(request.into_inner().item_ids)?;
        let deleted = self.store.delete_items(ids, self.clock.now_ms()).await?;
        let write_token = token::encode(deleted.seq);
        Ok(Response::new(v1::DeleteItemsResponse { unknown_item_ids: deleted.unknown, write_token }))
    }

    async fn get_items(&self, request: Request<v1::GetItemsRequest>) -> Result<Response<v1::GetItemsResponse>, Status> {
        let ids = self.ids(request.into_inner().item_ids)?;
        let found = self.store.get_items(&ids).await?;
        let mut answer = v1::GetItemsResponse::default();
        for (id, item) in ids.into_iter().zip(found) {
            match item {
                Some(item) => answer.items.push(convert::item_out(item)),
                None => answer.unknown_item_ids.push(id),
            }
        }
        if answer.encoded_len() > self.message_max_bytes {
            let most = self.message_max_bytes;
            let rule = format!("these items are more than one answer holds ({most} bytes); ask for fewer at a time");
            return Err(Error::invalid("item_ids", rule).into());
        }
        Ok(Response::new(answer))
    }

    async fn list_items(
        &self,
        request: Request<v1::ListItemsRequest>,
    ) -> Result<Response<v1::ListItemsResponse>, Status> {
        let v1::ListItemsRequest { page_size, page_token } = request.into_inner();
        let size = convert::page_size_in(page_size, PAGE_DEFAULT_ENTRIES, &self.limits)?;
        let after = crate::token::read_list("page_token", &page_token)?;
        let found = self.store.list_items(after.as_deref(), size).await?;
        let is_last = found.len() < size;
        let mut answer = v1::ListItemsResponse::default();
        let (mut bytes, most) = (0, self.message_max_bytes - self.message_max_bytes / 4);
        for item in found {
            let item = convert::item_out(item);
            bytes += item.encoded_len();
            if bytes > most && !answer.items.is_empty() {
                answer.next_page_token = last_token(&answer);
                return Ok(Response::new(answer));
            }
            answer.items.push(item);
        }
        if !is_last {
            answer.next_page_token = last_token(&answer);
        }
        Ok(Response::new(answer))
    }
}

/// Where the next page goes on.
fn last_token(page: &v1::ListItemsResponse) -> String {
    page.items.last().map_or_else(String::new, |last| crate::token::list(&last.id))
}

impl Catalog {
    fn ids(&self, ids: Vec<String>) -> Result<Vec<String>> {
        let most = ("items_max_per_call", self.limits.items_max_per_call);
        convert::ids_in("item_ids", &ids, most, &self.limits).map(|()| ids)
    }
}
