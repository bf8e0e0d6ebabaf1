//! Images: built for real, by hand or in the long run; what needs no network runs always.

use vmtest::config::Config;
use vmtest::dirs::Dirs;
use vmtest::image;

/// Builds the images named in `VMTEST_BUILD` (else `tiny`) in the configured cache.
#[test]
#[ignore = "fetches packages and builds for up to a minute"]
fn an_image_is_built_and_then_found() {
    let names = std::env::var("VMTEST_BUILD").unwrap_or_else(|_| "tiny".to_owned());
    let config = Config::load().expect("the configuration can be read");
    let dirs = Dirs::from_env().expect("there is a cache");
    for name in names.split(',') {
        let plan = image::plan(&config, &dirs, name).expect("the image can be planned");
        let built = plan
            .build(&dirs, &|line| eprintln!("{line}"))
            .expect("the image can be built");
        assert_eq!(built.digest, plan.digest());
        let begin = std::time::Instant::now();
        let found = plan
            .find(&dirs)
            .expect("the cache can be read")
            .expect("the image has just been built");
        eprintln!("found in {:?}: {found:#?}", begin.elapsed());
        assert_eq!(found, built);
    }
}
