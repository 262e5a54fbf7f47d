//! Registries that are slow, stop, never end, or send more than they say.

use super::super::digest::Digest;
use super::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Limits that a test can wait for.
const SHORT: Patience = Patience {
    connect: Duration::from_secs(5),
    answer: Duration::from_millis(300),
    document: Duration::from_millis(600),
    stall: Duration::from_millis(300),
    stored: Duration::from_millis(300),
    again: Duration::from_millis(1),
};

/// A server on loopback that answers each request, by its method and path, as a test says. Gives its address.
fn serve(answer: impl Fn(&str, &str, &mut TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                let mut first = String::new();
                let _ = lines.read_line(&mut first);
                let mut line = String::new();
                while lines.read_line(&mut line).is_ok_and(|n| n > 2) {
                    line.clear();
                }
                let mut words = first.split(' ');
                let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                answer(method, path, &mut stream);
            });
        }
    });
    address
}

fn whole(stream: &mut TcpStream, body: &[u8]) {
    let _ =
        stream.write_all(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
    let _ = stream.write_all(body);
}

/// The beginning of an answer that goes on until the connection is closed.
fn begin(stream: &mut TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
}

/// Holds a connection open until the client has closed it.
fn hold(stream: &mut TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Sends a piece again and again, until nobody takes it.
fn drip(stream: &mut TcpStream, piece: &[u8], pause: Duration) {
    while stream.write_all(piece).is_ok() {
        std::thread::sleep(pause);
    }
}

/// An image of one layer that has so many bytes of a file: its manifest, its configuration, its layer.
fn image(bytes: usize) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &vec![b'x'; bytes][..]).unwrap();
    let layer = tar.into_inner().unwrap();
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}});
    let config = config.to_string().into_bytes();
    let blob = |bytes: &[u8]| json!({"digest": Digest::of(bytes), "size": bytes.len()});
    let manifest = json!({"schemaVersion": 2, "config": blob(&config), "layers": [blob(&layer)]}).to_string().into_bytes();
    (manifest, config, layer)
}

/// A registry that has [`image`] and sends its layer as a test says.
fn with_layer(bytes: usize, send: impl Fn(&[u8], &mut TcpStream) + Send + Sync + 'static) -> String {
    let (manifest, config, layer) = image(bytes);
    let (config_at, layer_at) = (format!("blobs/{}", Digest::of(&config)), format!("blobs/{}", Digest::of(&layer)));
    serve(move |_, path, stream| match path {
        _ if path.ends_with(&config_at) => whole(stream, &config),
        _ if path.ends_with(&layer_at) => send(&layer, stream),
        _ => whole(stream, &manifest),
    })
}

async fn pull(host: &str) -> Result<(tempfile::TempDir, Image), ImageError> {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(root.path()).unwrap());
    let name: ImageRef = format!("{host}/x").parse().unwrap();
    let pulled = Registry::with(SHORT).unwrap().pull(&store, &name, Arc::new(|_| {})).await;
    let staged: Vec<_> = std::fs::read_dir(root.path().join("staging")).unwrap().flatten().map(|e| e.path()).collect();
    assert!(staged.is_empty(), "{staged:?}");
    pulled.map(|image| (root, image))
}

/// Pulls, and wants it to fail within some seconds and with these words.
async fn fails(host: &str, words: &str) {
    let begun = Instant::now();
    let said = pull(host).await.expect_err(words).to_string();
    assert!(said.contains(words), "no `{words}` in: {said}");
    assert!(begun.elapsed() < Duration::from_secs(15), "after {:?}: {said}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_says_nothing_more_is_left() {
    // Nothing at all; a head and nothing; the half of a document; a document that never ends in good time.
    fails(&serve(|_, _, stream| hold(stream)), "it has not answered within 0.3 s").await;
    let head = |_: &str, _: &str, stream: &mut TcpStream| {
        begin(stream);
        hold(stream);
    };
    fails(&serve(head), "its answer has not ended within 0.6 s").await;
    let slow = |_: &str, _: &str, stream: &mut TcpStream| {
        begin(stream);
        drip(stream, b" ", Duration::from_millis(20));
    };
    fails(&serve(slow), "its answer has not ended within 0.6 s").await;
    // The same of a layer: all of it, or a byte now and then.
    let nothing = |layer: &[u8], stream: &mut TcpStream| {
        begin(stream);
        let _ = stream.write_all(&layer[..1000]);
        hold(stream);
    };
    fails(&with_layer(100_000, nothing), "it stalls: fewer than 4096 bytes have come within 0.3 s").await;
    let little = |layer: &[u8], stream: &mut TcpStream| {
        begin(stream);
        drip(stream, &layer[..1], Duration::from_millis(20));
    };
    fails(&with_layer(100_000, little), "it stalls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_good_download_has_no_limit() {
    let slowly = |layer: &[u8], stream: &mut TcpStream| {
        begin(stream);
        for piece in layer.chunks(8 << 10) {
            std::thread::sleep(Duration::from_millis(100));
            let _ = stream.write_all(piece);
        }
    };
    let begun = Instant::now();
    let (_root, image) = pull(&with_layer(100_000, slowly)).await.expect("it comes");
    assert_eq!(image.size, 100_000);
    assert!(begun.elapsed() > SHORT.document + SHORT.stall, "it took longer than any limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_do_not_end_are_cut_off() {
    let endless = |stream: &mut TcpStream| {
        begin(stream);
        drip(stream, &[b' '; 1 << 16], Duration::ZERO);
    };
    fails(&serve(move |_, _, stream| endless(stream)), "its answer is larger than 4194304 bytes").await;
    let said = |_: &str, _: &str, stream: &mut TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n");
        hold(stream);
    };
    fails(&serve(said), "its answer is larger than 4194304 bytes").await;
    let (manifest, _, _) = image(10);
    let config = move |_: &str, path: &str, stream: &mut TcpStream| {
        if path.contains("/blobs/") { endless(stream) } else { whole(stream, &manifest) }
    };
    fails(&serve(config), "its answer is larger than 4194304 bytes").await;
    // A layer longer than its descriptor, within what an archive may have at its end.
    let longer = |layer: &[u8], stream: &mut TcpStream| {
        begin(stream);
        let _ = stream.write_all(layer);
        drip(stream, &[0; 1 << 16], Duration::ZERO);
    };
    fails(&with_layer(100_000, longer), "is longer than the").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_servers_are_bounded_as_registries_are() {
    let guarded = |token: fn(&mut TcpStream)| {
        serve(move |_, path, stream| {
            if path.starts_with("/token") {
                return token(stream);
            }
            let host = stream.local_addr().unwrap();
            let realm = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\"\r\n");
            let head = format!("HTTP/1.1 401 Unauthorized\r\n{realm}Connection: close\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
        })
    };
    fails(&guarded(hold), "it has not answered within 0.3 s").await;
    let endless = |stream: &mut TcpStream| {
        begin(stream);
        drip(stream, &[b' '; 1 << 16], Duration::ZERO);
    };
    fails(&guarded(endless), "its answer is larger than 65536 bytes").await;
    fails(&guarded(|stream| whole(stream, b"[]")), "the token server's answer is not understood").await;
    fails(&guarded(|stream| whole(stream, b"{}")), "the token server sent no token").await;
    // A token that is none that a header takes.
    let broken = |stream: &mut TcpStream| whole(stream, br#"{"token": "a\r\nHost: elsewhere"}"#);
    fails(&guarded(broken), "failed to parse header value").await;
    // Whatever the token, it asks again.
    fails(&guarded(|stream| whole(stream, br#"{"token": "x"}"#)), "does not exist").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_end() {
    let around = |_: &str, path: &str, stream: &mut TcpStream| {
        let head =
            format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {path}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
    };
    fails(&serve(around), "too many redirects").await;
    let elsewhere = |_: &str, _: &str, stream: &mut TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/shadow\r\nContent-Length: 0\r\n\r\n");
        hold(stream);
    };
    assert!(pull(&serve(elsewhere)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broken_pull_has_fetched_is_pruned() {
    let (_, _, layer) = image(1000);
    let other = Digest::of(b"not to be had");
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer), other]}});
    let config = config.to_string().into_bytes();
    let layers = [json!({"digest": Digest::of(&layer), "size": layer.len()}), json!({"digest": other, "size": 9})];
    let manifest =
        json!({"config": {"digest": Digest::of(&config), "size": config.len()}, "layers": layers}).to_string().into_bytes();
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(root.path()).unwrap());
    let first = (store.clone(), Digest::of(&layer));
    let host = serve(move |_, path, stream| match path.rsplit('/').next().unwrap_or_default() {
        "latest" => whole(stream, &manifest),
        digest if digest == Digest::of(&config).as_str() => whole(stream, &config),
        digest if digest == Digest::of(&layer).as_str() => whole(stream, &layer),
        _ => {
            let (store, first) = &first;
            assert!(eventually(|| store.find_blob(first).is_some()), "the first layer's blob is kept");
            drop(stream.write_all(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let name: ImageRef = format!("{host}/x").parse().unwrap();
    let patient = Patience { answer: Duration::from_secs(20), ..SHORT };
    let pulled = Registry::with(patient).unwrap().pull(&store, &name, Arc::new(|_| {})).await;
    assert!(pulled.unwrap_err().to_string().contains("does not exist"));
    assert_eq!(store.prune(&Default::default()).unwrap().blobs, 1, "the first had come");
}

/// Polls, for 10 s at most.
fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

/// A pull that has found a blob here does not fetch it: it must be here when the image is.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_pull_has_found_is_not_removed_with_another_image() {
    let (root, pulled) = pull(&with_layer(1000, |layer, stream| whole(stream, layer))).await.expect("an image");
    let store = Store::open(root.path()).unwrap();
    let (name, _) = store.list().unwrap().remove(0);
    let manifest = store.manifest(&pulled).unwrap();
    let blob = manifest.layers[0].digest.clone();
    let (config, manifest_bytes) = (store.configuration(&pulled).unwrap(), store.manifest_bytes(&pulled).unwrap());
    let expected = Expected::all(&manifest, &Configuration::parse(&config).unwrap()).unwrap();
    let used = |_: &super::super::ChainId| true;

    let known = store.known_layer(&expected[0]).expect("it was seen");
    store.remove(&name, &used).unwrap();
    assert!(store.find_blob(&blob).is_some(), "held by the second pull");
    assert_eq!(store.prune(&pulled.layers.iter().cloned().collect()).unwrap().blobs, 0);
    store.commit(&name, &config, &manifest_bytes, vec![Arrived::Here(known)]).unwrap();
    assert!(store.find_blob(&blob).is_some(), "what the image names");
    store.remove(&name, &used).unwrap();
    assert!(store.find_blob(&blob).is_none(), "held by nobody");
}

/// Nothing of an image is kept when one of its documents is not what the other names.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_of_another_image_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let (manifest, config, layer) = image(1000);
    let mut other: Value = serde_json::from_slice(&config).unwrap();
    other["author"] = json!("somebody");
    let staged = store.stage(&layer[..]).unwrap();
    let name: ImageRef = "x".parse().unwrap();
    let refused = store.commit(&name, other.to_string().as_bytes(), &manifest, vec![Arrived::Staged(staged)]).unwrap_err();
    assert!(matches!(refused, ImageError::WrongDigest { .. }), "{refused}");
    assert_eq!(std::fs::read_dir(root.path().join("layers")).unwrap().count(), 0);
}

/// An image of [`image`] in a store, under a name of a registry.
async fn pushed(host: &str, bytes: usize) -> Result<(Digest, usize), ImageError> {
    let (root, image) = pull(&with_layer(bytes, |layer, stream| whole(stream, layer))).await.expect("an image");
    let store = Arc::new(Store::open(root.path()).unwrap());
    let name: ImageRef = format!("{host}/x").parse().unwrap();
    Registry::with(SHORT).unwrap().push(&store, &name, &image, Arc::new(|_| {})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_end_as_well() {
    let status = |stream: &mut TcpStream, status: &str, more: &str| {
        let head = format!("HTTP/1.1 {status}\r\n{more}Connection: close\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
    };
    let registry = move |put: fn(&mut TcpStream)| {
        serve(move |method, _, stream| match method {
            "HEAD" => status(stream, "404 Not Found", ""),
            "POST" => status(stream, "202 Accepted", "Location: /upload?x=1\r\n"),
            _ => put(stream),
        })
    };
    let fails = |host: String, bytes: usize, words: &'static str| async move {
        let said = pushed(&host, bytes).await.expect_err(words).to_string();
        assert!(said.contains(words), "no `{words}` in: {said}");
    };
    // It reads nothing, and the sockets hold a part of the layer; it has all and says nothing; it refuses with words without end.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let reads_nothing = serve(move |method, _, stream| match method {
        "HEAD" => status(stream, "404 Not Found", ""),
        "POST" => status(stream, "202 Accepted", "Location: /upload\r\n"),
        _ => drop(held.lock().unwrap().recv()),
    });
    fails(reads_nothing, 32 << 20, "it takes no more of the upload for 0.3 s").await;
    drop(release);
    fails(registry(hold), 1000, "nothing was answered for 0.3 s").await;
    let refuses = serve(move |method, _, stream| match method {
        "HEAD" => status(stream, "404 Not Found", ""),
        _ => {
            let _ = stream.write_all(b"HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n");
            drip(stream, &[b'x'; 1 << 16], Duration::ZERO);
        }
    });
    fails(refuses, 1000, "it refused an upload with 500").await;
    let places: [Value; 3] = [json!("http://127.0.0.2:1/x"), json!("file:///etc"), json!("")];
    for place in places {
        let place = place.as_str().unwrap().to_string();
        let host = serve(move |method, _, stream| match method {
            "HEAD" => status(stream, "404 Not Found", ""),
            "POST" => status(stream, "202 Accepted", &format!("Location: {place}\r\n")),
            _ => status(stream, "500 Oops", ""),
        });
        assert!(pushed(&host, 1000).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_uploads_follow_redirects() {
    let host = serve(|method, path, stream| {
        let (status, place) = match (method, path) {
            ("HEAD", _) => ("404 Not Found", ""),
            ("POST", _) => ("202 Accepted", "Location: /upload\r\n"),
            (_, path) if path.starts_with("/upload") => ("307 Temporary Redirect", "Location: /elsewhere\r\n"),
            _ => ("201 Created", ""),
        };
        let head = format!("HTTP/1.1 {status}\r\n{place}Connection: close\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
        hold(stream);
    });
    pushed(&host, 1000).await.expect("the layer and the configuration go elsewhere");
}

/// A line that breaks again and again brings a large layer in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_comes_on_is_taken_up_again_without_end() {
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let breaks = move |layer: &[u8], stream: &mut TcpStream| {
        let tries = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", layer.len());
        let _ = stream.write_all(head.as_bytes());
        let sent = layer.len().min(tries * (PROGRESS as usize + (64 << 10)));
        let _ = stream.write_all(&layer[..sent]);
    };
    pull(&with_layer((TRIES as usize + 2) << 20, breaks)).await.expect("each try comes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_was_not_reached_is_asked_again() {
    let is_up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let up = is_up.clone();
    let host = serve(
        move |_, _, stream| {
            if up.load(std::sync::atomic::Ordering::Relaxed) { whole(stream, b"{}") } else { hold(stream) }
        },
    );
    let registry = Registry::with(SHORT).unwrap();
    assert!(!registry.has_https(&host).await && registry.has_https.lock().await.is_empty());
    is_up.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(!registry.has_https(&host).await);
    assert_eq!(registry.has_https.lock().await.get(&host), Some(&false), "it has answered as plain HTTP");
}
