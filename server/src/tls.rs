//! The one TLS provider of the process: several clients share it.

/// Makes ring the provider of every TLS client that asks for none by name. Again is no error.
pub fn install_provider() {
    // It fails when one is installed already: that one is ours, too.
    let _already_there = rustls::crypto::ring::default_provider().install_default();
}

/// What is wrong with a server's certificate, when that is what a client complains of.
pub fn complaint(told: &str) -> Option<&'static str> {
    if told.contains("not valid for name") || told.contains("NotValidForName") {
        Some("its certificate is for another name")
    } else if told.contains("invalid peer certificate") || told.contains("UnknownIssuer") {
        Some("its certificate is not trusted here")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_complained_of() {
        let name = "invalid peer certificate: certificate not valid for name \"127.0.0.1\"";
        assert_eq!(complaint(name), Some("its certificate is for another name"));
        assert_eq!(complaint("invalid peer certificate: BadSignature"), Some("its certificate is not trusted here"));
        assert_eq!(complaint("connection refused"), None);
    }
}
