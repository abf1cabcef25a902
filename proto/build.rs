//! Generates the messages, clients and servers from `proto/`, and the descriptors that reflection serves.

use std::{env, io, path::PathBuf};

const FILES: [&str; 2] = ["proto/grpc/health/v1/health.proto", "proto/leasehold/v1/registry.proto"];

fn main() -> io::Result<()> {
    let out =
        env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR for build scripts"))?;
    tonic_prost_build::configure()
        // Maps reach the outside (lists, JSON, logs): one order everywhere.
        .btree_map(".")
        .file_descriptor_set_path(PathBuf::from(out).join("leasehold.bin"))
        .compile_protos(&FILES, &["proto"])
}
