//! Reading rows: texts of callers are bytes in the database.

use sqlx::postgres::PgRow;
use sqlx::{Decode, Postgres, Row, Type};

use super::session::failed;
use crate::error::Result;
use crate::store::UserKey;
use crate::store::columns::corrupt;

/// One row.
#[derive(Clone, Copy)]
pub(super) struct Fields<'r> {
    pub(super) row: &'r PgRow,
    pub(super) doing: &'static str,
}

impl<'r> Fields<'r> {
    /// A column as the database has it.
    pub(super) fn get<T: Decode<'r, Postgres> + Type<Postgres>>(&self, index: usize) -> Result<T> {
        self.row.try_get(index).map_err(failed(self.doing))
    }

    /// A text that is kept as bytes.
    pub(super) fn text(&self, index: usize) -> Result<Option<String>> {
        self.get::<Option<&[u8]>>(index)?.map(text).transpose()
    }

    /// A user's key.
    pub(super) fn user(&self, index: usize) -> Result<UserKey> {
        self.text(index)?.as_deref().and_then(UserKey::parse).ok_or_else(|| corrupt("user key"))
    }
}

/// A text from its bytes.
pub(super) fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| corrupt("a text that is not UTF-8"))
}

/// A user's key as it is kept.
pub(super) fn key(user: &UserKey) -> &[u8] {
    user.as_str().as_bytes()
}
