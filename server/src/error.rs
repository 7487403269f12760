//! One error type, sorted by what the caller can do about it.
//!
//! What goes to the caller is in the variants' fields; what only operators may see is the `detail` of
//! [`Error::Internal`] and [`Error::Unavailable`], which is logged and never sent. The table to gRPC codes is in `rpc/`.

use std::sync::Arc;

/// The result of everything that can fail in the server.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, by what the caller can do about it. Cheap to clone: one failed commit answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Fix the request: this field breaks this rule. Sending it again is useless.
    #[error("{field}: {rule}")]
    InvalidArgument {
        /// The field, as a path from the request: `events[3].item_id`.
        field: String,
        /// The rule that it breaks, in plain words.
        rule: String,
    },
    /// What was asked for is not there.
    #[error("{0} not found")]
    NotFound(String),
    /// The request is fine, the state is not: something has to happen first.
    #[error("{0}")]
    FailedPrecondition(String),
    /// Too much at once: try again later, with backoff. Names the limit that was met.
    #[error("{0}")]
    ResourceExhausted(String),
    /// The caller's time is over. The write may or may not have happened: resend with the same ids.
    #[error("deadline exceeded")]
    DeadlineExceeded,
    /// Not now: a dependency is down, or the server drains. Try another replica, or later.
    #[error("{reason}")]
    Unavailable {
        /// Fit for the caller.
        reason: &'static str,
        /// For the log alone.
        detail: Arc<str>,
    },
    /// No credentials, or wrong ones.
    #[error("a bearer token is needed")]
    Unauthenticated,
    /// The operation is switched off, or not for this caller.
    #[error("{0}")]
    PermissionDenied(String),
    /// A fault of ours.
    #[error("internal error")]
    Internal {
        /// What was being done.
        doing: &'static str,
        /// For the log alone.
        detail: Arc<str>,
    },
}

impl Error {
    /// A field that breaks a rule.
    pub fn invalid(field: impl Into<String>, rule: impl Into<String>) -> Error {
        Error::InvalidArgument { field: field.into(), rule: rule.into() }
    }

    /// A fault of ours; the source goes to the log alone.
    pub fn internal(doing: &'static str, source: impl std::fmt::Display) -> Error {
        Error::Internal { doing, detail: source.to_string().into() }
    }

    /// A dependency that is down; the source goes to the log alone.
    pub fn unavailable(reason: &'static str, source: impl std::fmt::Display) -> Error {
        Error::Unavailable { reason, detail: source.to_string().into() }
    }

    /// What operators may read: the message with the details that callers never get.
    pub fn detail(&self) -> String {
        match self {
            Error::Unavailable { reason, detail } => format!("{reason}: {detail}"),
            Error::Internal { doing, detail } => format!("{doing}: {detail}"),
            other => other.to_string(),
        }
    }

    /// The same with `prefix` before the field of an invalid argument: `events[3].` + `item_id`.
    #[must_use]
    pub fn within(self, prefix: &str) -> Error {
        match self {
            Error::InvalidArgument { field, rule } => {
                Error::InvalidArgument { field: format!("{prefix}{field}"), rule }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_stay_out_of_the_message() {
        let error = Error::internal("committing", "disk I/O error in /var/lib/secret");
        assert_eq!(error.to_string(), "internal error");
        assert!(error.detail().contains("secret"));
    }

    #[test]
    fn a_field_gets_its_path() {
        assert_eq!(
            Error::invalid("time", "must not lie in the future").within("events[2].").to_string(),
            "events[2].time: must not lie in the future"
        );
    }
}
