//! UserService.

use std::sync::Arc;

use marquee_proto::encoded::user_service_server::UserService;
use marquee_proto::v1;
use tonic::{Request, Response, Status};

use super::catalog::PAGE_DEFAULT_ENTRIES;
use super::{auth, convert};
use crate::answer::Desk;
use crate::error::{Error, Result};
use crate::events::{check, token};
use crate::store::{EventCursor, Store, StoredEvent, User, UserKey};

/// Reads and writes users.
pub(super) struct Users {
    pub(super) store: Arc<dyn Store>,
    pub(super) desk: Arc<Desk>,
}

#[tonic::async_trait]
impl UserService for Users {
    async fn upsert_users(
        &self,
        request: Request<v1::UpsertUsersRequest>,
    ) -> Result<Response<v1::UpsertUsersResponse>, Status> {
        let users = request.into_inner().users;
        let limits = &self.desk.config.limits;
        convert::count_in("users", users.len(), ("users_max_per_call", limits.users_max_per_call))?;
        let user = |(at, user): (usize, v1::User)| {
            let user = convert::attributes_in(user.attributes).map(|attributes| User { id: user.id, attributes });
            let user = user.and_then(|user| check::user(&user, limits).map(|()| user));
            user.map_err(|error| error.within(&format!("users[{at}].")))
        };
        let users = users.into_iter().enumerate().map(user).collect::<Result<Vec<_>>>()?;
        self.store.upsert_users(users, self.desk.clock.now_ms()).await?;
        Ok(Response::new(v1::UpsertUsersResponse {}))
    }

    async fn get_user(&self, request: Request<v1::GetUserRequest>) -> Result<Response<v1::GetUserResponse>, Status> {
        let v1::GetUserRequest { user_id, anonymous_id } = request.into_inner();
        let key = self.who(&user_id, &anonymous_id)?;
        let summary = self.store.get_user(&key).await?;
        let what = if key.is_anonymous() { "anonymous visitor" } else { "user" };
        let summary = summary.ok_or_else(|| Error::NotFound(what.to_owned()))?;
        let profile = self.desk.profiles.get(&key).await?;
        let user = match summary.user {
            Some(user) => Some(v1::User { id: user.id, attributes: convert::attributes_out(user.attributes) }),
            None if key.is_anonymous() => None,
            None => Some(v1::User { id: user_id, attributes: None }),
        };
        Ok(Response::new(v1::GetUserResponse {
            user,
            events: summary.events,
            profile_version: profile.version,
            profile_events: profile.events.len() as u64,
        }))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let v1::ListEventsRequest { user_id, anonymous_id, page_size, page_token } = request.into_inner();
        let key = self.who(&user_id, &anonymous_id)?;
        let size = convert::page_size_in(page_size, PAGE_DEFAULT_ENTRIES, &self.desk.config.limits)?;
        let after = crate::token::read_list("page_token", &page_token)?.map(|text| cursor_in(&text)).transpose()?;
        let events = self.store.list_events(&key, after.as_ref(), size).await?;
        let next_page_token = match events.last() {
            Some(last) if events.len() == size => crate::token::list(&cursor_out(last)),
            _ => String::new(),
        };
        let events = events.into_iter().map(|stored| convert::event_out(stored.event)).collect();
        Ok(Response::new(v1::ListEventsResponse { events, next_page_token }))
    }

    async fn merge_users(
        &self,
        request: Request<v1::MergeUsersRequest>,
    ) -> Result<Response<v1::MergeUsersResponse>, Status> {
        let v1::MergeUsersRequest { anonymous_id, user_id } = request.into_inner();
        let limits = &self.desk.config.limits;
        check::id("anonymous_id", &anonymous_id, limits)?;
        check::id("user_id", &user_id, limits)?;
        let (anonymous, user) = (UserKey::anonymous(&anonymous_id), UserKey::user(&user_id));
        let (events_moved, seq) = self.store.merge_users(&anonymous, &user, self.desk.clock.now_ms()).await?;
        self.desk.profiles.invalidate([&anonymous, &user], seq);
        Ok(Response::new(v1::MergeUsersResponse { events_moved, write_token: token::encode(seq) }))
    }

    async fn forget_user(
        &self,
        request: Request<v1::ForgetUserRequest>,
    ) -> Result<Response<v1::ForgetUserResponse>, Status> {
        auth::check(request.metadata(), self.desk.config.admin_token.as_ref())?;
        let v1::ForgetUserRequest { user_id, anonymous_id } = request.into_inner();
        let key = self.who(&user_id, &anonymous_id)?;
        let erased = self.desk.forget(&key, &*self.store).await?;
        Ok(Response::new(v1::ForgetUserResponse { events_erased: erased.events, slates_erased: erased.slates }))
    }
}

impl Users {
    fn who(&self, user_id: &str, anonymous_id: &str) -> Result<UserKey> {
        check::who(user_id, anonymous_id, &self.desk.config.limits)
    }
}

fn cursor_out(last: &StoredEvent) -> String {
    format!("{} {} {}", last.event.time_ms, last.seq, last.event.id)
}

fn cursor_in(text: &str) -> Result<EventCursor> {
    let mut parts = text.splitn(3, ' ');
    let mut next = || parts.next().unwrap_or_default();
    let (time_ms, seq, event_id) = (next().parse(), next().parse(), next().to_owned());
    match (time_ms, seq) {
        (Ok(time_ms), Ok(seq)) => Ok(EventCursor { time_ms, seq, event_id }),
        _ => Err(Error::invalid("page_token", "must be a next_page_token of ListEvents, unchanged")),
    }
}
