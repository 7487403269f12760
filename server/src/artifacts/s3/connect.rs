//! The client of a bucket, and what is wrong with it in plain words. The only file that reads the AWS_ variables.

use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStoreExt, RetryConfig};

use crate::config::{Address, Artifacts};
use crate::error::{Error, Result};

/// A request that did not work is sent again at most so often, within the time of one request.
const RETRIES_MAX: usize = 3;
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// What was connected to.
pub(super) struct Connected {
    pub(super) bucket: object_store::aws::AmazonS3,
    /// Of the bucket, before the namespace.
    pub(super) prefix: Path,
}

/// Connects and reads `current` of that namespace once, so that what is wrong shows now.
pub(super) async fn connect(config: &Artifacts, namespace: &str) -> Result<Connected> {
    crate::tls::install_provider();
    let refuse = |rule: String| Error::invalid("artifacts.url", rule);
    let (place, options) = config.url.rest().split_once('?').unwrap_or((config.url.rest(), ""));
    let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
    let mut endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter().find_map(set);
    for (key, value) in url::form_urlencoded::parse(options.as_bytes()) {
        match &*key {
            "endpoint" => endpoint = Some(value.into_owned()),
            other => return Err(refuse(format!("`{other}` is no option; there is endpoint"))),
        }
    }
    let prefix = Path::parse(prefix.trim_matches('/')).map_err(|error| refuse(format!("its prefix: {error}")))?;
    check(name, endpoint.as_deref()).map_err(refuse)?;
    let timeout = Duration::from_millis(config.request_timeout_ms);
    let is_plain = endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let client = ClientOptions::new()
        .with_timeout(timeout)
        .with_connect_timeout(CONNECT_MAX.min(timeout))
        .with_allow_http(is_plain)
        .with_pool_max_idle_per_host(config.transfers_max);
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: RETRIES_MAX,
        retry_timeout: timeout,
    };
    let mut builder = AmazonS3Builder::from_env();
    if let Some(endpoint) = &endpoint {
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    // The options that the environment may hold are replaced: plain HTTP is for an endpoint that says so itself.
    let built = builder.with_client_options(client).with_retry(retry).with_bucket_name(name).build();
    let bucket = built.map_err(|error| refuse(wrong(&error, name, endpoint.as_deref())))?;
    match bucket.get(&prefix.clone().join(namespace).join(super::CURRENT)).await {
        Ok(_) => (),
        Err(error) if is_only_missing(&error) => (),
        Err(error) => return Err(refuse(wrong(&error, name, endpoint.as_deref()))),
    }
    Ok(Connected { bucket, prefix })
}

/// What the client would take and then panic on with its first request.
fn check(bucket: &str, endpoint: Option<&str>) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if bucket.is_empty() || bucket.len() > 255 || !bucket.bytes().all(plain) {
        return Err(format!("`{bucket}` is no bucket's name"));
    }
    if let Some(endpoint) = endpoint {
        let parsed = url::Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        if parsed.is_none_or(|url| !url.has_host() || url.query().is_some() || url.fragment().is_some()) {
            let shown = Address::from(endpoint).redacted();
            return Err(format!("the endpoint `{shown}` is no http:// or https:// URL"));
        }
    }
    for variable in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        if set(variable).is_some_and(|region| !region.bytes().all(plain)) {
            return Err(format!("{variable} is no region's name"));
        }
    }
    for variable in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        if set(variable).is_some_and(|value| !value.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(format!("{variable} holds what no credential can: a space, a line's end"));
        }
    }
    Ok(())
}

fn set(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

/// The object is not there, but the bucket is.
fn is_only_missing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) && !chain(error).contains("NoSuchBucket")
}

/// Whether the bucket answered, and refused.
pub(super) fn is_refusal(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. })
}

/// What is wrong, without any secret: bodies of answers are matched and never repeated.
fn wrong(error: &object_store::Error, bucket: &str, endpoint: Option<&str>) -> String {
    let told = chain(error);
    let says = |words: &[&str]| words.iter().any(|word| told.contains(word));
    let shown = endpoint.map_or_else(|| "AWS".to_owned(), |endpoint| Address::from(endpoint).redacted());
    let has_key = set("AWS_ACCESS_KEY_ID").is_some() && set("AWS_SECRET_ACCESS_KEY").is_some();
    let elsewhere = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"];
    let has_other =
        set("AWS_CONTAINER_CREDENTIALS_FULL_URI").is_some() || elsewhere.into_iter().any(|of| set(of).is_some());
    if says(&["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"]) {
        format!("{shown} refuses the credentials in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN")
    } else if says(&["NoSuchBucket"]) {
        format!("there is no bucket `{bucket}` at {shown}")
    } else if !has_key && !has_other {
        "there are no credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set".to_owned()
    } else if is_refusal(error) {
        format!("the credentials may not read the bucket `{bucket}` at {shown}")
    } else if says(&["NotValidForName", "not valid for name"]) {
        format!("the TLS certificate of {shown} is for another name")
    } else if says(&["certificate", "UnknownIssuer", "InvalidContentType", "received corrupt message"]) {
        format!("TLS with {shown} fails: its certificate is not trusted here, or it speaks no TLS")
    } else {
        format!("{shown} does not answer for the bucket `{bucket}`")
    }
}

/// An error with its causes, to be matched; never to be printed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        told.push('\n');
        told.push_str(&cause.to_string());
        next = cause.source();
    }
    told
}
