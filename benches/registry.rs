//! What `benches/registry.sh` times: an image of 300 MB that is the same each time, and forge's
//! way of pushing and pulling it.
//!
//! ```text
//! registry make STORE LAYOUT     six layers of about 50 MB: three of noise, three of text
//! registry push STORE REFERENCE  the image that `make` made
//! registry pull STORE REFERENCE  an image, into a store
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use forge::digest::{Digest, Hasher};
use forge::event::Events;
use forge::image::{Image, ImageLayer, MediaTypes, Settings as ImageSettings, assemble, layout};
use forge::layer::{Compression, Layer};
use forge::registry::{Access, Credentials, Push, Reference, Settings, Source};
use forge::store::{NewBlob, Store, Table};

/// Bytes of each blob, roughly.
const SIZE: u64 = 50_000_000;
/// The name under which the store keeps the image.
const ROOT: &str = "bench";

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["make", store, folder] => make(Path::new(store), Path::new(folder)),
        ["push", store, reference] => push(Path::new(store), &reference.parse()?),
        ["pull", store, reference] => pull(Path::new(store), &reference.parse()?),
        _ => Err("see benches/registry.sh, which calls this".into()),
    }
}

fn make(store: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let store = Store::open(store)?;
    let mut layers = Vec::new();
    for seed in 1..=6 {
        layers.push(layer(&store, seed)?);
    }
    let settings = ImageSettings {
        architecture: "amd64".to_owned(),
        created: "1980-01-01T00:00:01Z".to_owned(),
        environment: BTreeMap::new(),
        entrypoint: Vec::new(),
        command: Vec::new(),
        user: "1000:1000".to_owned(),
        directory: "/".to_owned(),
        labels: BTreeMap::new(),
        ports: Vec::new(),
        stop_signal: None,
        media_types: MediaTypes::Oci,
    };
    let image = assemble(&settings, layers)?;
    store.write_blob(&image.manifest)?;
    store.write_blob(&image.config)?;
    store.put(Table::Images, &image.digest, &image.layers)?;
    store.set_root(ROOT, &image.digest)?;
    layout::write(&image, &store, folder, &[ROOT.to_owned()])?;
    Ok(())
}

/// A tar of one file, as gzip.
fn layer(store: &Store, seed: u64) -> Result<ImageLayer, Box<dyn Error>> {
    // Hexadecimal digits have half of the information of bytes.
    let (name, size) = if seed.is_multiple_of(2) { ("text", SIZE * 2) } else { ("noise", SIZE) };
    let gzip: GzEncoder<NewBlob<'_>> = GzEncoder::new(store.new_blob()?, Level::new(6));
    let mut tar = tar::Builder::new(Hasher::new(gzip));
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    let noise = Noise { state: seed, is_text: name == "text" };
    tar.append_data(&mut header, format!("{name}-{seed}"), noise.take(size))?;
    let (diff_id, unpacked, gzip) = tar.into_inner()?.finish();
    let (digest, size) = gzip.finish()?.keep(None)?;
    let compression = Compression::DEFAULT;
    let layer = Layer { diff_id, digest, size, unpacked, compression };
    Ok(ImageLayer { name: format!("{name}-{seed}"), part: None, layer, tree: diff_id })
}

/// Bytes by chance, and the same each time (xorshift64*, Vigna 2016).
struct Noise {
    state: u64,
    is_text: bool,
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for byte in buffer.iter_mut() {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            *byte = (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 56) as u8;
            if self.is_text {
                *byte = b"0123456789abcdef"[usize::from(*byte & 15)];
            }
        }
        Ok(buffer.len())
    }
}

fn access() -> Access {
    Access::new(Settings {
        credentials: Credentials::default(),
        insecure: Vec::new(),
        mirrors: BTreeMap::new(),
        certificates: Vec::<PathBuf>::new(),
    })
}

fn push(store: &Path, reference: &Reference) -> Result<(), Box<dyn Error>> {
    let store = Store::open(store)?;
    let digest = store.root_digest(ROOT)?.ok_or("no image was made")?;
    let layers: Vec<ImageLayer> = store.get(Table::Images, &digest)?.ok_or("no layers")?;
    let manifest = store.read_blob(&digest)?;
    let document: serde_json::Value = serde_json::from_slice(&manifest)?;
    let config_digest: Digest =
        document["config"]["digest"].as_str().ok_or("no configuration")?.parse()?;
    let config = store.read_blob(&config_digest)?;
    let image =
        Image { config, config_digest, manifest, digest, media_types: MediaTypes::Oci, layers };
    let (sender, events) = std::sync::mpsc::channel();
    let nobody = std::thread::spawn(move || events.iter().count());
    access().repository(reference)?.push(&Push {
        image: &image,
        store: &store,
        tags: std::slice::from_ref(&reference.tag),
        origins: &BTreeMap::new(),
        doubted: &std::collections::BTreeSet::new(),
        sent: &std::collections::BTreeSet::new(),
        bring: &|_| Err("it should be in the store".into()),
        events: &Events::new(sender),
    })?;
    nobody.join().map_err(|_| "the events' thread failed")?;
    writeln!(io::stdout(), "{digest}")?;
    Ok(())
}

fn pull(store: &Path, reference: &Reference) -> Result<(), Box<dyn Error>> {
    let store = Store::open(store)?;
    let source = Source::open(reference, &access())?;
    let resolved = source.resolve(&"linux/amd64".parse()?, &store)?;
    source.fetch(&resolved.layers, &store, &|_, _| {})?;
    writeln!(io::stdout(), "{}", resolved.manifest)?;
    Ok(())
}
