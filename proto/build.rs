//! Compiles the protos with protox (no system protoc) and generates messages, clients and servers.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 6] = [
    "marquee/v1/admin.proto",
    "marquee/v1/catalog.proto",
    "marquee/v1/event.proto",
    "marquee/v1/recommendation.proto",
    "marquee/v1/types.proto",
    "marquee/v1/user.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=marquee");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    // protox writes no descriptor file, and reflection needs one.
    let descriptors = protox::compile(FILES, ["."])?;
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure().build_transport(false).btree_map(".").compile_fds(descriptors.clone())?;

    // Once more, the servers alone, for answers that exist as bytes already: the same services and paths, with
    // `Encoded` in place of the two answers that may come from the cache. Every other message is the one above.
    let encoded = out.join("encoded");
    fs::create_dir_all(&encoded)?;
    tonic_prost_build::configure()
        .build_transport(false)
        .build_client(false)
        .extern_path(".marquee.v1.RecommendResponse", "crate::Encoded")
        .extern_path(".marquee.v1.RecommendBatchResponse", "crate::Encoded")
        .extern_path(".marquee.v1", "crate::v1")
        .out_dir(&encoded)
        .compile_fds(descriptors)?;
    Ok(())
}
