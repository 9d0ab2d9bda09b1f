//! How near packing comes to what the processors can do, and to the usual tools.
//!
//! ```text
//! cargo bench --bench packing -- FOLDER [ROUNDS]
//! ```
//!
//! In turns, each round: the folder packed to nowhere with both digests, as a build does it; the
//! limit; and `tar | pigz` with two `sha256sum` beside, where those are installed. The limit is
//! what nobody gets around, shared evenly by as many threads as there are processors, none of
//! which waits for another: reading each file, and of a tar that is in memory the SHA-256,
//! compressing each piece, the SHA-256 of what comes out. Seconds by the clock and of processors:
//! where others use the machine too, the second says more. `to limit` is the median of what the
//! rounds say, each for itself.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use forge::digest::Digest;
use forge::layer::{Compression, Files, PIECE, Recipe, pack};
use forge::tree::{Node, Tree};
use libdeflater::{CompressionLvl, Compressor};
use rustix::time::{ClockId, clock_gettime};

/// Seconds by the clock and of processors.
#[derive(Clone, Copy, Default)]
struct Took {
    wall: f64,
    processors: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let folder = words.first().ok_or("say which folder: cargo bench --bench packing -- FOLDER")?;
    let folder = Path::new(folder);
    let rounds: usize = words.get(1).map_or(Ok(9), |word| word.parse())?;
    let processors = std::thread::available_parallelism()?.get();
    let tree = Tree::scan(folder)?;
    let mut tar = Vec::new();
    packed(&tree, folder, Compression::None, processors, &mut tar)?;
    let kinds = [
        ("gzip 4", Compression::Gzip { level: 4 }),
        ("gzip 6", Compression::Gzip { level: 6 }),
        ("zstd 3", Compression::Zstd { level: 3 }),
    ];
    let peer = ["pigz", "sha256sum", "tar"].iter().all(|tool| is_there(tool));
    let mut packing = vec![Vec::new(); kinds.len()];
    let mut limits = vec![Vec::new(); kinds.len()];
    let mut sizes = vec![0; kinds.len()];
    let mut by_tools = Vec::new();
    for _ in 0..rounds {
        for (number, (_, compression)) in kinds.iter().enumerate() {
            limits[number].push(timed(|| limit(&tree, folder, &tar, *compression, processors))?);
            packing[number].push(timed(|| {
                sizes[number] =
                    packed(&tree, folder, *compression, processors, &mut std::io::sink())?;
                Ok(())
            })?);
        }
        if peer {
            by_tools.push(timed(|| tools(folder))?);
        }
    }
    let megabytes = tar.len() as f64 / 1e6;
    let mut text = format!(
        "{} entries, {megabytes:.0} MB of tar, {processors} processors, {rounds} rounds, medians\n\n",
        tree.len()
    );
    writeln!(
        text,
        "{:8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "MB/s", "limit", "to limit", "cpu s", "limit", "to limit", "MB out"
    )?;
    for (number, (name, _)) in kinds.iter().enumerate() {
        let (forge, limit) = (median(&packing[number]), median(&limits[number]));
        writeln!(
            text,
            "{name:8} {:9.0} {:9.0} {:9.2} {:9.2} {:9.2} {:9.2} {:9.1}",
            megabytes / forge.wall,
            megabytes / limit.wall,
            ratio(&limits[number], &packing[number], |took| took.wall),
            forge.processors,
            limit.processors,
            ratio(&limits[number], &packing[number], |took| took.processors),
            sizes[number] as f64 / 1e6
        )?;
    }
    if peer {
        let tools = median(&by_tools);
        writeln!(
            text,
            "{:8} {:9.0}   (tar | pigz, with two sha256sum)",
            "tools",
            megabytes / tools.wall
        )?;
    }
    print!("{text}");
    Ok(())
}

fn packed(
    tree: &Tree,
    folder: &Path,
    compression: Compression,
    workers: usize,
    blob: &mut impl std::io::Write,
) -> Result<u64, Box<dyn Error>> {
    let recipe = Recipe { owners: Vec::new(), compression };
    Ok(pack(tree, Files::kept(folder), &recipe, workers, blob, &|_| {})?.size)
}

/// What is left when there are no headers, no order and nothing to hand over.
fn limit(
    tree: &Tree,
    folder: &Path,
    tar: &[u8],
    compression: Compression,
    threads: usize,
) -> Result<(), Box<dyn Error>> {
    std::thread::scope(|scope| {
        let share = |number| move || share(tree, folder, tar, compression, (number, threads));
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(share(number))).collect();
        for thread in threads {
            thread.join().map_err(|_| "a thread of the limit ended early")??;
        }
        Ok(())
    })
}

/// Every so many files and pieces: which of them, of how many.
fn share(
    tree: &Tree,
    folder: &Path,
    tar: &[u8],
    compression: Compression,
    (number, of): (usize, usize),
) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let mut read = vec![0; PIECE];
    let is_file = |(_, node): &(&[u8], Node<'_>)| matches!(node, Node::File { .. });
    for (path, _) in tree.iter().filter(is_file).skip(number).step_by(of) {
        let file = File::open(folder.join(OsStr::from_bytes(path)));
        let mut file = file.map_err(|error| failed(&error))?;
        while file.read(&mut read).map_err(|error| failed(&error))? > 0 {}
    }
    let mut hashed = 0_u8;
    let mut room = Vec::new();
    let mut deflate = match compression {
        Compression::Gzip { level } => {
            let level = CompressionLvl::new(i32::from(level)).map_err(|_| "no such level")?;
            let deflate = Compressor::new(level);
            Some(deflate)
        }
        _ => None,
    };
    for piece in tar.chunks(PIECE).skip(number).step_by(of) {
        let written = match (&mut deflate, compression) {
            (Some(deflate), _) => {
                room.resize(deflate.gzip_compress_bound(piece.len()), 0);
                deflate.gzip_compress(piece, &mut room).map_err(|error| failed(&error))?
            }
            (None, Compression::Zstd { level }) => {
                room.resize(zstd::zstd_safe::compress_bound(piece.len()), 0);
                zstd::bulk::compress_to_buffer(piece, &mut room, i32::from(level))
                    .map_err(|error| failed(&error))?
            }
            (None, _) => 0,
        };
        for digest in [Digest::of(piece), Digest::of(&room[..written])] {
            hashed ^= digest.bytes()[0];
        }
    }
    std::hint::black_box(hashed);
    Ok(())
}

/// The same by the usual tools: compressed, and both digests.
fn tools(folder: &Path) -> Result<(), Box<dyn Error>> {
    let script = r#"set -o pipefail
        tar --sort=name --mtime=@1 --owner=0 --group=0 -C "$0" -c . |
            tee >(sha256sum > /dev/null) | pigz -6 | sha256sum > /dev/null"#;
    let status = Command::new("bash").args(["-c", script]).arg(folder).status()?;
    if status.success() { Ok(()) } else { Err("tar and pigz failed".into()) }
}

fn is_there(tool: &str) -> bool {
    let mut command = Command::new(tool);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn timed(act: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<Took, Box<dyn Error>> {
    let (began, before) = (Instant::now(), spent());
    act()?;
    Ok(Took { wall: began.elapsed().as_secs_f64(), processors: spent() - before })
}

/// Seconds that all threads of this process have used of processors.
fn spent() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn median(all: &[Took]) -> Took {
    let of = |part: fn(&Took) -> f64| middle(all.iter().map(part));
    Took { wall: of(|took| took.wall), processors: of(|took| took.processors) }
}

/// The median of the ratios of each round: the machine is as fast for both of them.
fn ratio(limits: &[Took], packing: &[Took], part: fn(&Took) -> f64) -> f64 {
    middle(limits.iter().zip(packing).map(|(limit, packing)| part(limit) / part(packing)))
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
