//! How forge assigns packages to layers, for `benches/splitting.py`: environments in, assignments out.
//!
//! Standard input: a line `PACKAGE BYTES` for each package, and an empty line behind each environment.
//! Standard output: a line `PACKAGE<tab>LAYER` for each, and the same empty lines.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, BufRead, Write};

use forge::layer::assign;

/// As in an image with one step that is split.
const MOST: usize = 24;

fn main() -> Result<(), Box<dyn Error>> {
    let mut units: BTreeMap<String, u64> = BTreeMap::new();
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ') {
            Some((unit, size)) => {
                units.insert(unit.to_owned(), size.parse()?);
            }
            None => {
                for (unit, place) in assign(&std::mem::take(&mut units), MOST) {
                    writeln!(out, "{unit}\t{}", place.name())?;
                }
                writeln!(out)?;
            }
        }
    }
    Ok(())
}
