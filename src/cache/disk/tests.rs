//! The disk cache as the read path meets it: what is torn, full, shared or old.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

/// A directory, and a machine whose clock the test sets and whose disk is boundless.
struct Scene {
    home: tempfile::TempDir,
    now: Arc<AtomicU64>,
}

impl Scene {
    fn new() -> Scene {
        let now = Arc::new(AtomicU64::new(1_700_000_000_000_000_000));
        Scene { home: tempfile::tempdir().unwrap(), now }
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("cache")
    }

    fn config(&self, bytes_max: u64) -> DiskCacheConfig {
        DiskCacheConfig { dir: self.dir(), bytes_max, free_bytes_min: 0 }
    }

    fn machine(&self) -> Machine {
        let now = self.now.clone();
        Machine { now: Arc::new(move || now.load(Ordering::Relaxed)), free: Arc::new(|_| Ok(u64::MAX)) }
    }

    fn open(&self, bytes_max: u64) -> DiskCache {
        DiskCache::open_on(self.machine(), &self.config(bytes_max), None, "bucket").unwrap()
    }

    fn pass(&self, seconds: u64) {
        self.now.fetch_add(seconds * 1_000_000_000, Ordering::Relaxed);
    }

    fn taken(&self) -> u64 {
        taken(&self.dir().join("objects"))
    }
}

/// What the files take of the disk, in bytes.
fn taken(objects: &Path) -> u64 {
    let shards = std::fs::read_dir(objects).unwrap().map(|shard| shard.unwrap().path());
    let files = shards.filter(|shard| shard.is_dir()).flat_map(|shard| std::fs::read_dir(shard).unwrap());
    files.map(|file| file.unwrap().metadata().map_or(0, |meta| meta.blocks() * 512)).sum()
}

fn id(key: &str) -> VersionId {
    VersionId::new("bucket", key, "etag")
}

/// What an object's block holds: every block begins in its own way, and all are no pattern.
fn bytes(key: &str, size: u64, block: u64) -> Vec<u8> {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let words = (1..=BLOCK_BYTES / 8).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        words.flat_map(u64::to_be_bytes).collect()
    });
    let seed = key.bytes().fold(block + 1, |sum, b| sum.wrapping_mul(31) + u64::from(b));
    let mut bytes = NOISE[..block_len(size, block)].to_vec();
    bytes.iter_mut().zip(seed.to_le_bytes()).for_each(|(byte, seed)| *byte = seed);
    bytes
}

impl DiskCache {
    async fn put(&self, key: &str, size: u64, block: u64) {
        let bytes = Bytes::from(bytes(key, size, block));
        let (first, rest) = (bytes.slice(..bytes.len() / 3), bytes.slice(bytes.len() / 3..));
        self.offer(id(key), size, block, vec![first, rest]);
        self.settle().await;
    }

    async fn put_all(&self, key: &str, size: u64) {
        for block in 0..size.div_ceil(BLOCK_BYTES) {
            self.put(key, size, block).await;
        }
    }

    /// Whether it is cached; if so, it is what was written.
    async fn has(&self, key: &str, size: u64, block: u64) -> bool {
        let found = self.read_block(id(key), size, block).await;
        if let Some(found) = &found {
            assert!(found[..] == bytes(key, size, block)[..], "{key} block {block} has other bytes");
        }
        found.is_some()
    }

    async fn cached(&self, key: &str, size: u64) -> u64 {
        self.bytes_cached(id(key), size).await
    }

    fn data(&self, key: &str, size: u64) -> PathBuf {
        Name::new(&self.bucket, id(key), size).data(&self.reader.objects)
    }

    fn sums(&self, key: &str, size: u64) -> PathBuf {
        Name::new(&self.bucket, id(key), size).sums(&self.reader.objects)
    }
}

fn flip(path: PathBuf, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[tokio::test]
async fn what_was_written_is_read_also_after_a_remount() {
    let scene = Scene::new();
    let size = 2 * MIB + 77;
    let cache = scene.open(64 * MIB);
    assert!(!cache.has("k", size, 0).await);
    cache.put("k", size, 2).await;
    cache.put("k", size, 0).await;
    assert!(cache.has("k", size, 0).await && !cache.has("k", size, 1).await && cache.has("k", size, 2).await);
    assert_eq!(cache.cached("k", size).await, MIB + 77);
    assert!(!cache.has("other", size, 0).await && !cache.has("k", size + 1, 0).await);
    let DiskStats { hits, misses, corrupt, writes_dropped, errors, .. } = cache.stats();
    assert_eq!((hits, misses, corrupt, writes_dropped, errors), (2, 4, 0, 0, 0));
    drop(cache);
    let cache = scene.open(64 * MIB);
    assert!(cache.has("k", size, 0).await && cache.has("k", size, 2).await);
    cache.settle().await;
    assert!(cache.stats().bytes_used >= scene.taken(), "counted anew");
}

#[tokio::test]
async fn a_bucket_or_endpoint_of_its_own_has_objects_of_its_own() {
    let scene = Scene::new();
    let open = |endpoint, bucket| {
        DiskCache::open_on(scene.machine(), &scene.config(64 * MIB), endpoint, bucket).unwrap()
    };
    open(None, "bucket").put("k", 10, 0).await;
    assert!(open(None, "bucket").has("k", 10, 0).await);
    assert!(!open(None, "bucket2").has("k", 10, 0).await);
    assert!(!open(Some("http://h:1"), "bucket").has("k", 10, 0).await);
}

#[tokio::test]
async fn a_corrupted_block_is_dropped_counted_and_can_be_written_anew() {
    let scene = Scene::new();
    let size = 2 * MIB + 9;
    let cache = scene.open(64 * MIB);
    cache.put_all("k", size).await;
    for (n, spoil) in [
        &(|| flip(cache.data("k", size), MIB + 4711)) as &dyn Fn(),
        &|| flip(cache.sums("k", size), 16 + 3),
        // Never reached the disk, as after a crash: zeros where bytes should be.
        &|| {
            let data = File::options().write(true).open(cache.data("k", size)).unwrap();
            data.write_all_at(&vec![0; 4096], 2 * MIB - 4096).unwrap();
        },
    ]
    .into_iter()
    .enumerate()
    {
        spoil();
        assert!(!cache.has("k", size, 1).await);
        assert_eq!(cache.stats().corrupt, n as u64 + 1);
        assert!(!cache.has("k", size, 1).await);
        assert_eq!(cache.stats().corrupt, n as u64 + 1, "dropped, so it is absent now");
        assert!(cache.has("k", size, 0).await && cache.has("k", size, 2).await);
        cache.put("k", size, 1).await;
        assert!(cache.has("k", size, 1).await);
    }
}

#[tokio::test]
async fn files_that_were_cut_off_are_absent_and_heal() {
    let scene = Scene::new();
    let size = 3 * MIB;
    let cache = scene.open(64 * MIB);
    cache.put_all("k", size).await;
    let sums = File::options().write(true).open(cache.sums("k", size)).unwrap();
    sums.set_len(16 + 5).unwrap();
    assert!(
        cache.has("k", size, 0).await && !cache.has("k", size, 1).await && !cache.has("k", size, 2).await
    );
    assert_eq!(cache.cached("k", size).await, MIB);
    cache.put_all("k", size).await;
    assert_eq!(cache.cached("k", size).await, size);
    let data = File::options().write(true).open(cache.data("k", size)).unwrap();
    data.set_len(MIB + 1).unwrap();
    assert!(!cache.has("k", size, 0).await, "a file of another length is another object's");
    cache.put("k", size, 2).await;
    assert!(!cache.has("k", size, 0).await && cache.has("k", size, 2).await);
    std::fs::remove_file(cache.sums("k", size)).unwrap();
    assert!(!cache.has("k", size, 2).await);
    cache.put("k", size, 2).await;
    assert!(cache.has("k", size, 2).await);
    assert_eq!(cache.stats().errors, 0);
}

#[tokio::test]
async fn what_a_crash_left_is_counted_and_goes_first() {
    let scene = Scene::new();
    let cache = scene.open(4 * MIB);
    cache.put("a", MIB, 0).await;
    cache.put("b", MIB, 0).await;
    std::fs::remove_file(cache.sums("b", MIB)).unwrap();
    std::fs::write(scene.dir().join("objects/stray"), "somebody's").unwrap();
    std::fs::write(cache.data("b", MIB).with_file_name("stray"), "somebody's").unwrap();
    let lost = cache.data("b", MIB);
    drop(cache);
    // The number as a crash may leave it after power was lost.
    let marker = File::options().write(true).open(scene.dir().join("pailfs-cache")).unwrap();
    marker.write_all_at(b"bytes held: 00000000000000000000\n", 28).unwrap();
    let cache = scene.open(4 * MIB);
    cache.settle().await;
    assert!(cache.stats().bytes_used >= 2 * MIB);
    cache.put("c", MIB, 0).await;
    assert!(lost.exists());
    cache.put("d", MIB, 0).await;
    assert!(!lost.exists());
    assert!(cache.has("a", MIB, 0).await && cache.has("c", MIB, 0).await && cache.has("d", MIB, 0).await);
}

#[tokio::test]
async fn the_least_recently_used_object_goes_first() {
    let scene = Scene::new();
    let cache = scene.open(5 * MIB);
    for key in ["a", "b", "c", "d"] {
        cache.put(key, MIB, 0).await;
        scene.pass(1);
    }
    assert!(cache.has("a", MIB, 0).await);
    assert!(cache.open_whole(id("b"), MIB).await.is_some(), "this is use as well");
    cache.put("e", MIB, 0).await;
    cache.put("f", MIB, 0).await;
    let mut held = String::new();
    for key in ["a", "b", "c", "d", "e", "f"] {
        if cache.cached(key, MIB).await > 0 {
            held.push_str(key);
        }
    }
    assert_eq!(held, "abef");
    assert_eq!(cache.stats().evictions, 2);
    drop(cache);
    let cache = scene.open(5 * MIB); // times of use outlive the mount
    cache.put("g", MIB, 0).await;
    assert!(!cache.has("a", MIB, 0).await && cache.has("b", MIB, 0).await);
}

#[tokio::test]
async fn an_object_larger_than_the_cache_gives_its_least_recently_used_blocks() {
    let scene = Scene::new();
    let cache = scene.open(8 * MIB);
    let size = 100 * MIB;
    for block in 0..7 {
        cache.put("huge", size, block).await;
    }
    assert_eq!(cache.cached("huge", size).await, 7 * MIB);
    assert!(cache.has("huge", size, 0).await);
    for block in 50..53 {
        cache.put("huge", size, block).await;
    }
    assert_eq!(cache.cached("huge", size).await, 7 * MIB);
    let mut held = Vec::new();
    for block in 0..100 {
        if cache.has("huge", size, block).await {
            held.push(block);
        }
    }
    assert_eq!(held, [0, 4, 5, 6, 50, 51, 52]);
    assert!(scene.taken() <= 8 * MIB);
    assert_eq!(cache.stats().corrupt, 0);
}

#[tokio::test]
async fn a_whole_file_is_the_objects_bytes_and_stays_while_it_is_open() {
    let scene = Scene::new();
    let size = 2 * MIB + 5;
    let cache = scene.open(5 * MIB);
    cache.put("k", size, 0).await;
    cache.put("k", size, 2).await;
    assert!(cache.open_whole(id("k"), size).await.is_none(), "a block is missing");
    cache.put("k", size, 1).await;
    let whole = cache.open_whole(id("k"), size).await.unwrap();
    let all: Vec<u8> = (0..3).flat_map(|block| bytes("k", size, block)).collect();
    let read = || {
        let mut got = vec![0; size as usize];
        whole.read_exact_at(&mut got, 0).unwrap();
        (whole.metadata().unwrap().len(), got)
    };
    assert!(read() == (size, all.clone()));
    // A descriptor of the same open file, as the kernel has it, keeps the lock.
    let kernels = whole.try_clone().unwrap();
    for key in ["a", "b", "c", "d", "e"] {
        cache.put(key, MIB, 0).await;
        assert!(scene.taken() <= 5 * MIB);
    }
    assert!(cache.has("e", MIB, 0).await, "the others make room");
    assert!(read() == (size, all.clone()));
    drop(whole);
    cache.put("f", MIB, 0).await;
    assert_eq!(cache.cached("k", size).await, size);
    let mut got = vec![0; size as usize];
    kernels.read_exact_at(&mut got, 0).unwrap();
    assert!(got == all);
    drop(kernels);
    for key in ["g", "h", "i", "j"] {
        cache.put(key, MIB, 0).await;
    }
    assert_eq!(cache.cached("k", size).await, 0, "closed, it goes when its time comes");
}

#[tokio::test]
async fn a_cache_full_of_open_files_takes_no_more_and_rests() {
    let scene = Scene::new();
    let cache = scene.open(3 * MIB);
    let mut open = Vec::new();
    for key in ["a", "b"] {
        cache.put(key, MIB, 0).await;
        open.push(cache.open_whole(id(key), MIB).await.unwrap());
    }
    cache.put("c", MIB, 0).await;
    assert_eq!(cache.stats().writes_dropped, 1);
    drop(open);
    cache.put("c", MIB, 0).await;
    assert_eq!(cache.stats().writes_dropped, 2, "it was looked through a moment ago");
    scene.pass(11);
    cache.put("c", MIB, 0).await;
    assert!(cache.has("c", MIB, 0).await && cache.has("b", MIB, 0).await && !cache.has("a", MIB, 0).await);
}

#[tokio::test]
async fn a_block_that_is_evicted_while_it_is_read_is_a_miss_and_not_corrupt() {
    let scene = Scene::new();
    let cache = scene.open(8 * MIB);
    cache.put("k", 100, 0).await;
    let (objects, name) = (&cache.reader.objects, Name::new(&cache.bucket, id("k"), 100));
    let files = object::Files::open(objects, name, 100).unwrap().unwrap();
    assert!(cache.reader.check_block(&files, 0, &mut [0; 100]).unwrap());
    assert!(object::remove(objects, name).unwrap());
    assert!(!cache.reader.check_block(&files, 0, &mut [0; 100]).unwrap());
    assert_eq!(cache.stats().corrupt, 0);
}

#[tokio::test]
async fn a_whole_file_that_changed_is_verified_again() {
    let scene = Scene::new();
    let cache = scene.open(8 * MIB);
    cache.put("k", MIB, 0).await;
    assert!(cache.open_whole(id("k"), MIB).await.is_some());
    assert!(cache.open_whole(id("k"), MIB).await.is_some());
    flip(cache.data("k", MIB), 9);
    assert!(cache.open_whole(id("k"), MIB).await.is_none());
    assert_eq!(cache.stats().corrupt, 1);
    cache.put("k", MIB, 0).await;
    assert!(cache.open_whole(id("k"), MIB).await.is_some());
}

#[tokio::test]
async fn a_large_whole_file_is_verified_in_the_background() {
    let scene = Scene::new();
    let size = 65 * MIB;
    let cache = scene.open(100 * MIB);
    cache.put_all("k", size).await;
    assert_eq!(cache.cached("k", size).await, size);
    assert!(cache.open_whole(id("k"), size).await.is_none());
    while cache.open_whole(id("k"), size).await.is_none() {
        tokio::task::yield_now().await; // it ends: what is cached does not change
    }
    flip(cache.data("k", size), 64 * MIB);
    while cache.stats().corrupt == 0 {
        assert!(cache.open_whole(id("k"), size).await.is_none());
    }
}

#[tokio::test]
async fn free_space_is_left_to_others() {
    let scene = Scene::new();
    let config = DiskCacheConfig { free_bytes_min: 100 * MIB, ..scene.config(64 * MIB) };
    // 103 MiB of the disk are not taken by others.
    let objects = scene.dir().join("objects");
    let free = Arc::new(move |_: &Path| Ok(103 * MIB - taken(&objects)));
    let machine = Machine { free, ..scene.machine() };
    let cache = DiskCache::open_on(machine, &config, None, "bucket").unwrap();
    for n in 0..9 {
        cache.put(&format!("k{n}"), MIB, 0).await;
        assert!(scene.taken() <= 3 * MIB);
    }
    assert!(cache.has("k8", MIB, 0).await && cache.has("k7", MIB, 0).await && !cache.has("k6", MIB, 0).await);
}

#[tokio::test]
async fn two_mounts_that_write_the_same_blocks_agree() {
    let scene = Scene::new();
    let size = 5 * MIB + 1;
    let (one, two) = (scene.open(64 * MIB), scene.open(64 * MIB));
    for block in 0..6 {
        let frames = || vec![Bytes::from(bytes("k", size, block))];
        one.offer(id("k"), size, block, frames());
        two.offer(id("k"), size, block, frames());
    }
    one.settle().await;
    two.settle().await;
    for cache in [&one, &two] {
        for block in 0..6 {
            assert!(cache.has("k", size, block).await);
        }
        assert!(cache.open_whole(id("k"), size).await.is_some());
        assert_eq!((cache.stats().corrupt, cache.stats().writes_dropped), (0, 0));
    }
    let taken = scene.taken();
    assert!(taken <= size + 16 * 4096, "each block once: {taken}");
    assert!((taken..taken + taken / 128).contains(&one.stats().bytes_used.max(two.stats().bytes_used)));
}

#[tokio::test]
async fn what_another_mount_has_open_whole_is_not_taken_apart() {
    let scene = Scene::new();
    let size = 3 * MIB;
    let (one, two) = (scene.open(5 * MIB), scene.open(5 * MIB));
    one.put_all("k", size).await;
    let whole = two.open_whole(id("k"), size).await.unwrap();
    for key in ["a", "b", "c"] {
        one.put(key, MIB, 0).await;
    }
    assert_eq!(one.cached("k", size).await, size);
    drop(whole);
    for key in ["d", "e", "f"] {
        one.put(key, MIB, 0).await;
    }
    assert!(one.cached("k", size).await < size);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Objects of 1 byte to 4 MiB and one of 40 MiB, through two mounts, one of them remounted now and then.
    #[test]
    fn the_cap_is_never_exceeded(
        steps in prop::collection::vec((0..12_u64, 0..40_u64, 0..3_usize), 40..80),
        cap in 2..9_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let scene = Scene::new();
        let cap = cap * MIB + MIB / 3;
        let mut mounts = [scene.open(cap), scene.open(cap)];
        for (key, block, what) in steps {
            let size = [1, 4097, 300_000, MIB, MIB + 1, 4 * MIB, 40 * MIB][key as usize % 7];
            let (block, key) = (block % size.div_ceil(MIB), format!("k{key}"));
            let mount = (block % 2) as usize;
            runtime.block_on(async {
                match what {
                    0 => mounts[mount].put(&key, size, block).await,
                    1 => _ = mounts[mount].has(&key, size, block).await,
                    _ => mounts[mount].put_all(&key, size.min(4 * MIB)).await,
                }
            });
            let taken = scene.taken();
            prop_assert!(taken <= cap, "{taken} of {cap}");
            let used = mounts.iter().map(|mount| mount.stats().bytes_used).max().unwrap();
            prop_assert!(used <= cap, "{used} of {cap}");
            if what == 2 && block % 5 == 0 {
                mounts[mount] = scene.open(cap);
            }
        }
        let stats = mounts.each_ref().map(DiskCache::stats);
        prop_assert!(stats.iter().all(|stats| stats.corrupt == 0 && stats.errors == 0), "{:?}", stats);
    }
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let scene = Scene::new();
    let cache = scene.open(64 * MIB);
    cache.settle().await;
    let marker = File::open(scene.dir().join("pailfs-cache")).unwrap();
    marker.lock().unwrap(); // another mount is at work, and the writer must wait
    let offered = QUEUE_BLOCKS_MAX as u64 + 5;
    for block in 0..offered {
        cache.offer(id("k"), 64 * MIB, block, vec![Bytes::from(bytes("k", 64 * MIB, block))]);
    }
    let dropped = cache.stats().writes_dropped;
    assert!((4..=5).contains(&dropped), "all but the queue's and the one in hand: {dropped}");
    assert!(!cache.has("k", 64 * MIB, 0).await, "reading waits for nobody");
    marker.unlock().unwrap();
    cache.settle().await;
    assert_eq!(cache.cached("k", 64 * MIB).await, (offered - dropped) * MIB);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_for_a_disk_that_stands_still() {
    let scene = Scene::new();
    let cache = scene.open(64 * MIB);
    let marker = File::open(scene.dir().join("pailfs-cache")).unwrap();
    marker.lock().unwrap(); // another mount does not let go
    for block in 0..QUEUE_BLOCKS_MAX as u64 + 2 {
        cache.keep(id("k"), 64 * MIB, block, vec![Bytes::from(bytes("k", 64 * MIB, block))]).await;
    }
    cache.settle().await;
    assert!(cache.stats().writes_dropped > 0 && cache.stats().errors == 1);
}

#[tokio::test]
async fn failures_of_the_disk_are_misses_and_counted() {
    let scene = Scene::new();
    let cache = scene.open(64 * MIB);
    cache.put("k", 10, 0).await;
    let objects = scene.dir().join("objects");
    std::fs::rename(&objects, scene.dir().join("away")).unwrap();
    std::fs::write(&objects, "no directory").unwrap();
    assert!(!cache.has("k", 10, 0).await);
    assert!(cache.open_whole(id("k"), 10).await.is_none());
    assert_eq!(cache.cached("k", 10).await, 0);
    cache.put("l", 10, 0).await;
    let DiskStats { errors, writes_dropped, hits, .. } = cache.stats();
    assert_eq!((errors, writes_dropped, hits), (4, 1, 0));
    std::fs::remove_file(&objects).unwrap();
    std::fs::rename(scene.dir().join("away"), &objects).unwrap();
    assert!(cache.has("k", 10, 0).await);
    cache.put("l", 10, 0).await;
    assert!(cache.has("l", 10, 0).await);
}

/// Only root may mount a file system that is small enough to fill.
#[tokio::test]
async fn a_full_disk_makes_the_oldest_give_way_and_fails_no_read() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: not root");
    }
    let scene = Scene::new();
    let options = nix::mount::MsFlags::empty();
    let (point, size) = (scene.home.path().to_owned(), Some("size=6m"));
    nix::mount::mount(Some("none"), &point, Some("tmpfs"), options, size).unwrap();
    let cache = scene.open(64 * MIB);
    for n in 0..20 {
        cache.put(&format!("k{n}"), MIB, 0).await;
    }
    let (last, first) = (cache.has("k19", MIB, 0).await, cache.has("k0", MIB, 0).await);
    std::fs::write(point.join("others"), vec![7; 3 << 20]).unwrap_err();
    for n in 20..30 {
        cache.put(&format!("k{n}"), MIB, 0).await;
    }
    let still = cache.has("k29", MIB, 0).await;
    let stats = cache.stats();
    drop(cache);
    nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert!(last && !first && still, "{stats:?}");
    assert_eq!((stats.errors, stats.corrupt), (0, 0), "{stats:?}");
}

#[tokio::test]
async fn the_directory_is_made_for_its_owner_alone() {
    let scene = Scene::new();
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let cache = scene.open(64 * MIB);
    cache.put("k", 10, 0).await;
    assert_eq!(mode(scene.dir()), 0o700);
    assert_eq!((mode(cache.data("k", 10)), mode(cache.sums("k", 10))), (0o600, 0o600));
    std::fs::set_permissions(scene.dir(), PermissionsExt::from_mode(0o755)).unwrap();
    scene.open(64 * MIB);
    assert_eq!(mode(scene.dir()), 0o700, "a cache of ours is closed again");
}

#[test]
fn directories_that_are_no_cache_are_refused_and_left_alone() {
    let scene = Scene::new();
    let open = || DiskCache::open_on(scene.machine(), &scene.config(64 * MIB), None, "bucket");
    let refused = || open().map(drop).unwrap_err().to_string();
    std::fs::create_dir(scene.dir()).unwrap();
    std::fs::set_permissions(scene.dir(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(scene.dir().join("thesis.tex"), "years of work").unwrap();
    let e = refused();
    assert!(e.contains("thesis.tex") && e.contains("empty directory"), "{e}");
    assert_eq!(std::fs::metadata(scene.dir()).unwrap().permissions().mode() & 0o777, 0o755);
    std::fs::remove_file(scene.dir().join("thesis.tex")).unwrap();
    open().unwrap();

    let marker = scene.dir().join("pailfs-cache");
    assert!(std::fs::read_to_string(&marker).unwrap().starts_with("pailfs disk cache, format 1\n"));
    std::fs::write(&marker, "pailfs disk cache, format 2\nbytes held: 7\n").unwrap();
    let e = refused();
    assert!(e.contains("format 2") && e.contains("format 1"), "{e}");
    std::fs::write(&marker, "a shopping list, perhaps of buckets and pails").unwrap();
    assert!(refused().contains("none of pailfs"));
    std::fs::write(&marker, "pailfs disk ca").unwrap(); // its maker was interrupted
    open().unwrap();
    std::fs::remove_dir_all(scene.dir()).unwrap();
    std::fs::write(scene.dir(), "a file").unwrap();
    let e = refused();
    assert!(e.contains("not a directory") && e.starts_with("--cache: "), "{e}");
    if nix::unistd::geteuid().is_root() {
        std::fs::remove_file(scene.dir()).unwrap();
        std::fs::create_dir(scene.dir()).unwrap();
        std::os::unix::fs::chown(scene.dir(), Some(4711), None).unwrap();
        assert!(refused().contains("user 4711"));
    }
}
