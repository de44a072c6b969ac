//! The command line of the simulation.

const HELP: &str = "\
Simulates clusters, one seed after another.

  --seeds N      how many seeds (default 40)
  --from N       the first seed (default 1)
  --minutes N    as many seeds as this time allows
  --threads N    seeds at a time (default: the number of cores)
  --seed N       this seed alone
  --scheduler    the test scheduler instead of clusters
  --trace        with --seed: print what happens
  --bug NAME     with a planted bug, in a build with the feature planted-bugs
  --qualify      show after how many seeds each planted bug is found";

#[derive(Clone, Debug)]
pub struct Options {
    pub seed: Option<u64>,
    pub trace: bool,
    pub from: u64,
    pub minutes: Option<u64>,
    pub seeds: u64,
    pub threads: usize,
    pub bug: Option<String>,
    pub qualify: bool,
    pub scheduler: bool,
}

impl Options {
    /// `None`: there is nothing to run.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Self {
            seed: None,
            trace: false,
            from: 1,
            minutes: None,
            // What an unoptimised build does in seconds, as a part of all tests.
            seeds: 40,
            threads: std::thread::available_parallelism().map_or(1, Into::into),
            bug: None,
            qualify: false,
            scheduler: false,
        };
        while let Some(arg) = args.next() {
            let mut number = || -> Result<u64, String> {
                let value = args.next().ok_or_else(|| format!("{arg} wants a number"))?;
                value.parse().map_err(|_| format!("{arg} wants a number, not {value}"))
            };
            match arg.as_str() {
                "--seed" => options.seed = Some(number()?),
                "--seeds" => options.seeds = number()?,
                "--from" => options.from = number()?,
                "--minutes" => {
                    options.minutes = Some(number()?);
                    options.seeds = u64::MAX / 2;
                }
                "--threads" => options.threads = number()? as usize,
                "--scheduler" => options.scheduler = true,
                "--trace" => options.trace = true,
                "--bug" => options.bug = args.next(),
                "--qualify" => options.qualify = true,
                "--help" => {
                    println!("{HELP}");
                    return Ok(None);
                }
                // What cargo passes to all test programs, and filters for other ones.
                "--nocapture" | "--quiet" | "--exact" => {}
                filter if !filter.starts_with('-') => {
                    if !"simulation".contains(filter) {
                        return Ok(None);
                    }
                }
                unknown => return Err(format!("unknown option {unknown}\n\n{HELP}")),
            }
        }
        Ok(Some(options))
    }

    /// How to run one seed again.
    pub fn command(&self, seed: u64) -> String {
        match &self.bug {
            None if self.scheduler => format!("make sim-scheduler SEED={seed}"),
            None => format!("make sim SEED={seed}"),
            Some(bug) => format!("make sim-qualify BUG={bug} SEED={seed}"),
        }
    }
}
