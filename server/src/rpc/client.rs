//! The one call that our own commands make: GetStatus.

use std::net::SocketAddr;
use std::time::Duration;

use marquee_proto::v1;
use marquee_proto::v1::admin_service_client::AdminServiceClient;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;

use crate::config::Secret;

const TIMEOUT: Duration = Duration::from_secs(2);

/// What the server at that address says of itself, line by line. Without TLS: for the same machine.
///
/// # Errors
/// Nobody answers, or the token is missing or wrong.
pub async fn status(address: SocketAddr, token: Option<&Secret>) -> anyhow::Result<Vec<String>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(TIMEOUT).connect().await?;
    let mut request = Request::new(v1::GetStatusRequest {});
    request.set_timeout(TIMEOUT);
    if let Some(token) = token {
        let value = MetadataValue::try_from(format!("Bearer {}", token.expose()))?;
        request.metadata_mut().insert("authorization", value);
    }
    let status = AdminServiceClient::new(channel).get_status(request).await;
    let status = status.map_err(|status| anyhow::anyhow!("{}", status.message()))?.into_inner();
    let bundle = if status.bundle_version.is_empty() { "none" } else { &status.bundle_version };
    let mut lines = vec![
        format!("version {}, {}", status.server_version, if status.ready { "ready" } else { "not ready" }),
        format!("bundle {bundle}, {} items", status.items),
        format!("watermark {} of {}", status.watermark, status.log_end),
        format!("variants {}", status.variants.join(", ")),
    ];
    lines.extend(status.notes);
    Ok(lines)
}
