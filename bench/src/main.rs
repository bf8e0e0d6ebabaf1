//! Measures vmtest, each figure beside a floor: the same engine with the same devices, driven by hand.
//! Run it as `cargo xtask bench`; what the figures mean stands in `docs/bench.md`.

mod error;
mod figure;
mod floor;
mod host;
mod measure;
mod product;
mod suite;
mod sys;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde_json::{Value, json};
use tokio::runtime::{Builder, Handle};

use error::Result;
use figure::Figure;
use measure::{Bench, Counts, Measured};

const USAGE: &str = "\
cargo xtask bench [--json FILE] [--quick] [--image NAME]... [--no-suite]

--quick     fewer measurements, for a first look
--image     tiny or debian; both otherwise
--no-suite  without the hundred tests under nextest";

const IMAGES: [&str; 2] = ["tiny", "debian"];

const THOROUGH: Counts = Counts {
    boots: 3,
    forks: 25,
    execs: 200,
    idle: 4,
};
const QUICK: Counts = Counts {
    boots: 1,
    forks: 8,
    execs: 50,
    idle: 4,
};

fn main() -> ExitCode {
    vmtest::init();
    let words: Vec<String> = std::env::args().skip(1).collect();
    match Options::parse(&words).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    json: Option<PathBuf>,
    images: Vec<&'static str>,
    counts: Counts,
    suite: bool,
}

impl Options {
    fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self {
            json: None,
            images: Vec::new(),
            counts: THOROUGH,
            suite: true,
        };
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--json" => options.json = Some(words.next().ok_or("--json takes a file")?.into()),
                "--image" => options.images.push(image(words.next())?),
                "--quick" => options.counts = QUICK,
                "--no-suite" => options.suite = false,
                other => return Err(format!("`{other}` is not known here\n\n{USAGE}").into()),
            }
        }
        if options.images.is_empty() {
            options.images = IMAGES.to_vec();
        }
        Ok(options)
    }
}

fn image(name: Option<&str>) -> Result<&'static str> {
    let known = IMAGES.into_iter().find(|known| Some(*known) == name);
    Ok(known.ok_or("--image takes tiny or debian")?)
}

fn run(options: &Options) -> Result {
    let mut conditions = host::conditions();
    let io = io_thread()?;
    if options.suite {
        suite::build()?;
    }
    let mut figures = Vec::new();
    for image in &options.images {
        eprintln!("measuring on {image}");
        let bench = Bench::prepare(image, options.counts, &io)?;
        let suite = options.suite.then(|| suite_figure(image, &bench)).transpose()?;
        let Measured {
            engine,
            program,
            figures: measured,
            phases,
        } = bench.run()?;
        describe(&mut conditions, &engine, &program);
        println(&format!("\ncold fork on {image}, step by step (ms):"));
        phases.iter().for_each(|line| println(&format!("  {line}")));
        figures.extend(measured);
        figures.extend(suite);
    }
    conditions["load_after"] = host::load().into();
    tell(&conditions, &figures);
    if let Some(path) = &options.json {
        let rows: Vec<Value> = figures.iter().map(Figure::row).collect();
        let text = serde_json::to_string_pretty(&json!({"conditions": conditions, "figures": rows}))?;
        std::fs::write(path, text + "\n")?;
    }
    Ok(())
}

fn suite_figure(image: &'static str, bench: &Bench) -> Result<Figure> {
    let mut figure = Figure::new("suite_100", image, "s");
    figure.ours.push(suite::run(image)?);
    figure.floor.push(bench.hundred_by_hand()?);
    Ok(figure)
}

/// Serves leases, as the runner's own I/O thread does.
fn io_thread() -> Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let serve = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("bench-io".into()).spawn(serve)?;
    Ok(handle)
}

fn describe(conditions: &mut Value, engine: &str, program: &str) {
    let accelerator = engine.split(['(', ')']).nth(1).unwrap_or_default();
    let version = Command::new(program).arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = version.unwrap_or_default();
    conditions["accelerator"] = accelerator.into();
    conditions["engine"] = version.lines().next().unwrap_or_default().into();
}

fn tell(conditions: &Value, figures: &[Figure]) {
    println(&format!("\nconditions: {conditions}\n"));
    println(&figure::heading());
    for figure in figures {
        println(&figure.line());
    }
}

fn println(line: &str) {
    use std::io::Write as _;
    // Nobody may be there to read.
    let _ = writeln!(std::io::stdout(), "{line}");
}
