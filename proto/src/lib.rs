//! Leasehold's gRPC interfaces, and the health service that both binaries serve.

pub mod health;
pub mod registry;

/// The descriptors of everything in `proto/`, encoded: what a reflection service is built from.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("leasehold");

#[cfg(test)]
mod tests {
    use super::FILE_DESCRIPTOR_SET;

    #[test]
    fn the_descriptors_name_both_services() {
        let text = String::from_utf8_lossy(FILE_DESCRIPTOR_SET);
        for name in ["grpc.health.v1", "Health", "leasehold.v1", "Registry", "WatchInstances"] {
            assert!(text.contains(name), "{name} is not among the descriptors");
        }
    }
}
