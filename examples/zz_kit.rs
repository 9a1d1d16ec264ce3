use std::time::{Duration, Instant};
#[tokio::main]
async fn main() {
    let p = kiln::support::wait::Patience::new(Duration::from_secs(300), &Default::default());
    let a = std::env::args().nth(2).map(|a| a.parse().unwrap()).unwrap_or(kiln::model::Architecture::HOST);
    let t = Instant::now();
    match kiln::appliance::Kit::ensure(std::path::Path::new(&std::env::args().nth(1).unwrap()), a, &p).await {
        Ok(k) => println!("{k:?} {:?}", t.elapsed()),
        Err(e) => {
            println!("{e}");
            let mut s = std::error::Error::source(&e);
            while let Some(c) = s {
                println!(": {c}");
                s = c.source();
            }
        }
    }
}
