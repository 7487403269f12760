//! The one TLS provider of the process: several clients share it.

/// Makes ring the provider of every TLS client that asks for none by name. Again is no error.
pub fn install_provider() {
    // It fails when one is installed already: that one is ours, too.
    let _already_there = rustls::crypto::ring::default_provider().install_default();
}
