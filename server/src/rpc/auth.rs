//! The bearer token of AdminService, ForgetUser and DeleteItems, from `MARQUEE_ADMIN_TOKEN`.

use subtle::ConstantTimeEq;
use tonic::metadata::MetadataMap;

use crate::config::Secret;
use crate::error::{Error, Result};

/// Checks `authorization: Bearer TOKEN`, in a time that does not tell how much of it is right.
pub(super) fn check(metadata: &MetadataMap, token: Option<&Secret>) -> Result<()> {
    let Some(token) = token else {
        let how = "closed: start the server with a token in the environment variable MARQUEE_ADMIN_TOKEN, \
                   then send the metadata `authorization: Bearer TOKEN`";
        return Err(Error::PermissionDenied(how.to_owned()));
    };
    let given = metadata.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = match given.split_once(' ') {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") => given.trim(),
        _ => return Err(Error::Unauthenticated),
    };
    let is_equal: bool = given.as_bytes().ct_eq(token.expose().as_bytes()).into();
    if is_equal { Ok(()) } else { Err(Error::Unauthenticated) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", value.parse().unwrap());
        metadata
    }

    #[test]
    fn only_the_token_opens() {
        let token = Secret::new("right".to_owned());
        assert!(check(&with("Bearer right"), Some(&token)).is_ok());
        assert!(check(&with("bearer right"), Some(&token)).is_ok());
        for wrong in ["Bearer wrong", "Bearer righ", "Bearer rightt", "Bearer ", "right", "Basic right"] {
            assert!(matches!(check(&with(wrong), Some(&token)), Err(Error::Unauthenticated)), "{wrong}");
        }
        assert!(matches!(check(&MetadataMap::new(), Some(&token)), Err(Error::Unauthenticated)));
    }

    #[test]
    fn without_a_token_it_is_closed_and_says_how_to_open_it() {
        let error = check(&with("Bearer "), None).unwrap_err();
        assert!(error.to_string().contains("MARQUEE_ADMIN_TOKEN"));
    }
}
