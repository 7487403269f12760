//! The one table from our errors to gRPC codes. Details go to the log, never to the caller.

use tonic::{Code, Status};

use crate::error::Error;

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let code = match &error {
            Error::InvalidArgument { .. } => Code::InvalidArgument,
            Error::NotFound(_) => Code::NotFound,
            Error::FailedPrecondition(_) => Code::FailedPrecondition,
            Error::ResourceExhausted(_) => Code::ResourceExhausted,
            Error::DeadlineExceeded => Code::DeadlineExceeded,
            Error::Unavailable { .. } => Code::Unavailable,
            Error::Unauthenticated => Code::Unauthenticated,
            Error::PermissionDenied(_) => Code::PermissionDenied,
            Error::Internal { .. } => Code::Internal,
        };
        match code {
            Code::Internal => tracing::error!(error = error.detail(), "a call failed"),
            Code::Unavailable => tracing::warn!(error = error.detail(), "a call failed"),
            _ => tracing::debug!(error = error.detail(), "a call was refused"),
        }
        Status::new(code, error.to_string())
    }
}

/// A code's name as the gRPC specification writes it.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_never_reads_a_detail() {
        let status = Status::from(Error::internal("committing", "disk full at /secret"));
        assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
        let status = Status::from(Error::invalid("count", "must be small"));
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "count: must be small"));
    }
}
