//! A bundle opens completely or not at all.

use std::fs;
use std::path::Path;

use marquee_engine::bundle::{Bundle, Error, OpenOptions};
use sha2::{Digest, Sha256};

use crate::sample::{Noise, Sample, make};

fn open(path: &Path) -> Result<Bundle, Error> {
    Bundle::open(path, &OpenOptions::default())
}

fn files(path: &Path) -> Vec<String> {
    let mut files: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    files
}

/// Changes a file and puts the right checksum into the manifest again, as a careless hand would.
fn reseal(path: &Path, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path.join(file)).unwrap();
    change(&mut bytes);
    fs::write(path.join(file), &bytes).unwrap();
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(path.join("manifest.json")).unwrap()).unwrap();
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    manifest["files"][file]["bytes"] = bytes.len().into();
    manifest["files"][file]["sha256"] = hex(&bytes).into();
    seal(path, manifest);
}

fn seal(path: &Path, manifest: serde_json::Value) {
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    // Through the type, so that the fields stand in their order.
    let mut manifest: marquee_engine::bundle::Manifest = serde_json::from_value(manifest).unwrap();
    manifest.digest = String::new();
    let text = |manifest: &marquee_engine::bundle::Manifest| serde_json::to_string_pretty(manifest).unwrap() + "\n";
    manifest.digest = hex(text(&manifest).as_bytes());
    fs::write(path.join("manifest.json"), text(&manifest)).unwrap();
}

#[test]
fn any_flipped_byte_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = make(folder.path());
    let mut noise = Noise(1);
    assert_eq!(files(&path).len(), 11);
    for file in files(&path) {
        let sound = fs::read(path.join(&file)).unwrap();
        for _ in 0..40 {
            let mut bytes = sound.clone();
            let at = noise.below(bytes.len());
            bytes[at] ^= 1 << noise.below(8);
            fs::write(path.join(&file), &bytes).unwrap();
            let error = open(&path).unwrap_err();
            // Whatever a file that is decoded before it is verified whole seems to say.
            let is_told = matches!(&error, Error::Checksum { file: told } if *told == file);
            assert!(is_told || file == "manifest.json", "{file}, byte {at}: {error}");
        }
        fs::write(path.join(&file), &sound).unwrap();
    }
    open(&path).unwrap();
}

#[test]
fn truncated_and_missing_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = make(folder.path());
    for file in files(&path) {
        let sound = fs::read(path.join(&file)).unwrap();
        for len in [0, 1, sound.len() / 2, sound.len() - 1] {
            fs::write(path.join(&file), &sound[..len]).unwrap();
            assert!(open(&path).is_err(), "{file} of {len} bytes");
        }
        fs::remove_file(path.join(&file)).unwrap();
        assert!(open(&path).is_err(), "no {file}");
        fs::write(path.join(&file), &sound).unwrap();
    }
    open(&path).unwrap();
}

fn refused(change: impl FnOnce(&Path), reason: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = make(folder.path());
    change(&path);
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn columns_in_another_order_are_refused() {
    refused(
        |path| {
            let text = fs::read(path.join("manifest.json")).unwrap();
            let mut manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
            manifest["columns"].as_array_mut().unwrap().swap(3, 4);
            seal(path, manifest);
        },
        "column 3 is",
    );
}

#[test]
fn a_foreign_model_is_refused() {
    refused(|path| reseal(path, "ranker.onnx", |bytes| *bytes = b"GIF89a".to_vec()), "ranker.onnx");
    let other = prost::Message::encode_to_vec(&crate::sample::trees(7));
    refused(|path| reseal(path, "ranker.onnx", |bytes| *bytes = other), "ranker.onnx");
}

#[test]
fn a_model_that_scores_otherwise_than_at_training_is_refused() {
    let flip = |bytes: &mut Vec<u8>| {
        // The last numbers of the file are expected scores.
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&9.75_f32.to_le_bytes());
    };
    refused(|path| reseal(path, "golden.safetensors", flip), "expected 9.75");
}

/// Writes an array file anew: its header as JSON, then the bytes of its arrays.
fn arrays(header: &serde_json::Value, bytes: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), bytes].concat()
}

#[test]
fn an_array_file_that_is_none_is_refused_by_name() {
    let vectors = |dtype: &str, shape: [usize; 2], bytes: &[u8]| {
        let items = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [0, bytes.len()]});
        arrays(&serde_json::json!({ "items": items }), bytes)
    };
    let part = |at: usize| {
        let bytes = 1_usize << 60;
        let ends = [at * bytes, (at + 1) * bytes];
        (at.to_string(), serde_json::json!({"dtype": "U8", "shape": [bytes], "data_offsets": ends}))
    };
    let endless = arrays(&serde_json::Value::Object((0..15).map(part).collect()), &[]);
    let (sound, mut infinite) = ([0; 240 * 4], [0; 240 * 4]);
    infinite[7 * 4..8 * 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    for (file, reason) in [
        (b"short".to_vec(), "it ends before its arrays do"),
        (u64::MAX.to_le_bytes().to_vec(), "a header of 18446744073709551615 bytes in 8"),
        (1_000_u64.to_le_bytes().to_vec(), "a header of 1000 bytes in 8; at most 16777216 are read"),
        ([&2_u64.to_le_bytes()[..], b"[]"].concat(), "header: "),
        (vectors("F32", [240, 2], &sound), "header: "),
        ([vectors("F32", [240, 1], &sound), vec![0]].concat(), "961 bytes of arrays, the header says 960"),
        // Lengths near the largest there are, and lengths that nothing in the file bounds.
        (endless, "0 bytes of arrays, the header says 17293822569102704640"),
        (vectors("F32", [0, usize::MAX / 8], &[]), "\"items\" has shape [0, 2305843009213693951], not [240]"),
        (vectors("I32", [240, 1], &sound), "\"items\" holds I32, not F32"),
        (vectors("BF16", [240, 2], &sound), "\"items\" holds BF16, not F32"),
        (vectors("F32", [120, 2], &sound), "\"items\" has shape [120, 2], not [240]"),
        (vectors("F32", [240, 1], &infinite), "vectors: row 7, column 0: inf is not finite"),
        (vectors("F32", [240, 0], &[]), "vectors: a row needs at least one number"),
        (arrays(&serde_json::json!({}), &[]), "no array \"items\""),
    ] {
        let change = |path: &Path| reseal(path, "embedding.safetensors", |bytes| *bytes = file.clone());
        refused(change, &format!("embedding.safetensors: {reason}"));
        // What is not what the manifest says is told as that, whatever it seems to be.
        let put = |path: &Path| {
            let mut bytes = fs::read(path.join("embedding.safetensors")).unwrap();
            let len = file.len().min(bytes.len());
            bytes[..len].copy_from_slice(&file[..len]);
            fs::write(path.join("embedding.safetensors"), &bytes).unwrap();
        };
        refused(put, "embedding.safetensors: the checksum");
    }
}

#[test]
fn a_header_beyond_its_limit_is_refused_unread() {
    let mut file = vec![b' '; 8 + 16 * 1024 * 1024 + 1];
    file[..8].copy_from_slice(&(16_u64 * 1024 * 1024 + 1).to_le_bytes());
    let reason = "graphs.safetensors: a header of 16777217 bytes in 16777225; at most 16777216 are read";
    refused(|path| reseal(path, "graphs.safetensors", |bytes| *bytes = file), reason);
}

#[test]
fn items_that_are_none_are_refused_by_line() {
    let change = |change: fn(&mut Vec<u8>)| move |path: &Path| reseal(path, "items.jsonl", change);
    refused(change(|bytes| bytes.insert(0, b'\n')), "items.jsonl: line 1: EOF while parsing");
    refused(change(|bytes| bytes[8] = 0xff), "items.jsonl: line 1: invalid unicode code point");
    refused(change(|bytes| bytes.extend(b"{}\n")), "items.jsonl: line 241: missing field `id`");
    let folder = tempfile::tempdir().unwrap();
    let path = make(folder.path());
    reseal(&path, "items.jsonl", |bytes| {
        *bytes = String::from_utf8(bytes.clone()).unwrap().trim_end().replace('\n', "\r\n").into_bytes();
    });
    open(&path).unwrap();
}

#[test]
fn what_is_missing_or_changed_is_told_before_what_is_wrong_with_others() {
    refused(
        |path| {
            reseal(path, "items.jsonl", |bytes| bytes.truncate(9));
            fs::remove_file(path.join("ranker.onnx")).unwrap();
        },
        "ranker.onnx: No such file",
    );
    refused(
        |path| {
            fs::write(path.join("notes.txt"), "nobody reads this").unwrap();
            reseal(path, "notes.txt", |_| ());
            fs::write(path.join("notes.txt"), "nobody reads that").unwrap();
        },
        "notes.txt: the checksum",
    );
    // Though the model is looked at first.
    refused(
        |path| {
            reseal(path, "ranker.onnx", |bytes| *bytes = b"GIF89a".to_vec());
            let mut users = fs::read(path.join("users.safetensors")).unwrap();
            *users.last_mut().unwrap() ^= 1;
            fs::write(path.join("users.safetensors"), users).unwrap();
        },
        "users.safetensors: the checksum",
    );
}

#[test]
fn a_format_of_the_future_is_refused() {
    refused(
        |path| {
            let text = fs::read(path.join("manifest.json")).unwrap();
            let mut manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
            manifest["format_version"] = 99.into();
            seal(path, manifest);
        },
        "format 99",
    );
}

#[test]
fn a_sound_bundle_says_what_it_holds() {
    let sample = Sample::new(0);
    let manifest = sample.engine.bundle().manifest();
    assert_eq!((manifest.counts.items, manifest.counts.users, manifest.counts.events), (240, 60, 4_000));
    assert_eq!(manifest.ranker.as_ref().unwrap().heads, ["score"]);
    assert_eq!(manifest.metrics["ndcg_at_10"], 0.1 + 0.2);
}

#[test]
fn a_version_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let again = std::panic::catch_unwind(|| make(folder.path()));
    assert!(again.is_err());
    assert!(!folder.path().join(".sample.draft").exists());
}
