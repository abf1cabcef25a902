//! TLS with a CA and client certificates, made by the `openssl` command.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use registry::session::Session;
use testkit::wait;

use crate::cluster::{Cluster, session};

fn openssl(dir: &Path, args: &str) {
    let args = args.split(' ');
    let made = Command::new("openssl").args(args).current_dir(dir).output().expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A CA called `name`, and a certificate of it for 127.0.0.1: `NAME.crt`, `NAME-leaf.crt`, `NAME-leaf.key`.
fn authority(dir: &Path, name: &str) {
    let subject = format!("-subj /CN={name}");
    openssl(
        dir,
        &format!("req -x509 -newkey rsa:2048 -nodes -days 2 {subject} -keyout {name}.key -out {name}.crt"),
    );
    openssl(
        dir,
        &format!("req -newkey rsa:2048 -nodes {subject}-leaf -keyout {name}-leaf.key -out {name}-leaf.csr"),
    );
    std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let signed = format!("-CA {name}.crt -CAkey {name}.key -CAcreateserial -days 2 -extfile ext");
    openssl(dir, &format!("x509 -req -in {name}-leaf.csr {signed} -out {name}-leaf.crt"));
}

fn tls_session(etcd: &Cluster, dir: &Path, ca: &str, leaf: &str) -> Session {
    let file = |name: String| dir.join(name).display().to_string();
    session(&[
        "--etcd-endpoints",
        &format!("https://127.0.0.1:{}", etcd.port(0)),
        "--etcd-cacert",
        &file(format!("{ca}.crt")),
        "--etcd-cert",
        &file(format!("{leaf}.crt")),
        "--etcd-key",
        &file(format!("{leaf}.key")),
    ])
}

async fn read(session: &Session) -> Result<(), String> {
    let got = session.call("read", |mut client| async move { client.get("x", None).await }).await;
    got.map(|_| ()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn both_sides_show_certificates_and_another_ca_is_told() {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path(), "ours");
    authority(dir.path(), "theirs");
    let file = |name: &str| -> PathBuf { dir.path().join(name) };
    let etcd = Cluster::with_flags(
        "https",
        &[
            ("--cert-file", file("ours-leaf.crt").display().to_string()),
            ("--key-file", file("ours-leaf.key").display().to_string()),
            ("--trusted-ca-file", file("ours.crt").display().to_string()),
            ("--client-cert-auth", "true".into()),
        ],
    );
    let good = tls_session(&etcd, dir.path(), "ours", "ours-leaf");
    wait::until(Duration::from_secs(30), "an answer over TLS", async || Ok(read(&good).await.ok()))
        .await
        .unwrap();

    let error = read(&tls_session(&etcd, dir.path(), "theirs", "ours-leaf")).await.unwrap_err();
    assert!(error.contains("certificate") && error.contains("--etcd-cacert"), "{error}");

    // Certificates are taken up from their files with each new client: first the wrong ones, then the right.
    let stranger = tls_session(&etcd, dir.path(), "ours", "theirs-leaf");
    let error = read(&stranger).await.unwrap_err();
    assert!(error.contains("--etcd-cert"), "{error}");
    for ending in ["crt", "key"] {
        let (from, to) = (format!("ours-leaf.{ending}"), format!("theirs-leaf.{ending}"));
        std::fs::copy(file(&from), file(&to)).unwrap();
    }
    wait::until(Duration::from_secs(10), "the renewed certificate", async || Ok(read(&stranger).await.ok()))
        .await
        .unwrap();
}
