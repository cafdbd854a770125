"""Settings: defaults of the paper, files and overrides over them, mistakes named."""

import os
from unittest import mock

import pytest
import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.experiment import Stage, differences, load, with_types

pytestmark = pytest.mark.tf215

FILE = """
data: {path: /data}
model: {width: 0.5}
stages:
  - {name: rotnet, clusters: 1, sub_clusters: 0, epochs: 3, optimizer: {weight_decay: 1e-4}}
  - {}
"""


# What a stage with prototypes needs.
PROTOTYPES = ",".join(
    f"stages[1].{setting}"
    for setting in (
        "head=prototypes",
        "projection.dim=8",
        "clustering.whiten=false",
        "clustering.spherical=true",
    )
)


class ExperimentTest(tf.test.TestCase):
    def file(self, text=FILE):
        path = os.path.join(self.get_temp_dir(), "experiment.yaml")
        with open(path, "w") as f:
            f.write(text)
        return path

    def test_what_a_file_does_not_say_is_the_papers(self):
        experiment = load([self.file()])
        self.assertEqual(experiment.model.width, 0.5)
        self.assertEqual(experiment.model.fc, 4096)
        rotnet, deeper = experiment.stages
        self.assertEqual((rotnet.rotations, rotnet.clustered, rotnet.rounds), (4, False, 1))
        self.assertEqual(rotnet.optimizer.weight_decay, 1e-4)  # YAML reads 1e-4 as text
        self.assertEqual((deeper.super_classes, deeper.sub_clusters), (16, 80_000))
        self.assertEqual((deeper.batch_size, deeper.optimizer.learning_rate), (3072, 0.1))

    def test_overrides_reach_into_stages_and_keep_lists_and_paths_whole(self):
        override = "stages[0].epochs=7,stages[0].optimizer.drops=[3, 5],data.path=/a b/c"
        experiment = load([self.file()], [override, "{seed: 4}"])
        self.assertEqual(experiment.stages[0].epochs, 7)
        self.assertEqual(tuple(experiment.stages[0].optimizer.drops), (3, 5))
        self.assertEqual(experiment.stages[1].epochs, 100)
        self.assertEqual((experiment.data.path, experiment.seed), ("/a b/c", 4))

    def test_numbers_up_to_the_limit_and_numbers_in_text_are_taken(self):
        override = "seed=2147483647,stages[0].epochs='7',stages[0].name='7',watchdog.timeout_s=1e9"
        experiment = load([self.file()], [override])
        self.assertEqual((experiment.seed, experiment.watchdog.timeout_s), (2**31 - 1, 1e9))
        self.assertEqual((experiment.stages[0].epochs, experiment.stages[0].name), (7, "7"))

    def test_paths_in_settings_start_at_home_where_they_start_with_a_tilde(self):
        with mock.patch.dict(os.environ, HOME="/home/me"):
            experiment = load([self.file()], ["data.path=~/d,init_from=~/run"])
        self.assertEqual(experiment.data.path, "/home/me/d")
        self.assertEqual(experiment.init_from, "/home/me/run")

    def refuses(self, *cases):
        """Each override is refused with a message that matches the pattern beside it."""
        for override, message in cases:
            with self.assertRaisesRegex(ConfigError, message, msg=override):
                load([self.file()], [override])

    def test_unknown_names_and_wrong_shapes_are_refused(self):
        self.refuses(
            ("wdith=1", "unknown setting 'wdith'; known here: .*model"),
            ("model.widht=1", "unknown setting 'model.widht'"),
            ("model=3", "model is 3; expected a mapping"),
            ("stages[5].epochs=1", r"'stages\[5\]' does not exist; .* 2"),
            ("stages[0].optimizer.options=3", "options.* holds int; expected a mapping"),
            ("nonsense", "expected a mapping"),
            ("data=3,data.path=x", "not understood"),
            ("stages[0]=5", "expected a mapping"),
        )

    def test_values_of_another_type_are_refused(self):
        self.refuses(
            ("model.width=big", "model.width is 'big'; expected float"),
            ("data.path=[1]", "data.path is .1.; expected str"),
            ("seed=true", "seed is True; expected int"),
            ("seed=1.5", "seed is 1.5; expected int"),
            ("seed=nan", "seed is 'nan'; expected int"),
            ("seed=.nan", "seed is nan; expected int"),
            ("stages[0].epochs=[]", r"epochs is \[\]; expected int"),
            ("stages[0].optimizer.drops=[1.5]", r"drops\[0\] is 1.5; expected int"),
            ("stages[0].optimizer.drops=[1, true]", r"drops\[1\] is True; expected int"),
            ("stages[0].optimizer.learning_rate=true", "learning_rate is True; expected float"),
            ("stages[0].optimizer.drops='35'", "drops is '35'; expected tuple"),
            ("stages[1].clustering.spherical=2", "spherical is 2; expected bool"),
            (
                "model.sync_batch_norm=false",
                "is the boolean False; expected str: write it in quotes",
            ),
            ("stages[0].name=7", "name is the number 7; expected str: write it in quotes"),
            ("data.path=007", "data.path is the number 7"),
            ("data.flip=1", "flip is 1; expected bool"),
        )

    def test_numbers_beyond_their_limits_are_refused(self):
        self.refuses(
            ("checkpoint_every=0", "at least 1"),
            ("seed=-1", "seed is -1"),
            ("checkpoint_every=.inf", "checkpoint_every is inf"),
            ("seed=9223372036854775808", "seed is 9223372036854775808; use .* to 2147483647"),
            ("stages[0].epochs=99999999999", r"epochs is 99999999999; use .* to 2147483647"),
            (f"stages[0].epochs={10**400}", "epochs is 1000*; use"),
            (
                "stages[0].optimizer.learning_rate=1e39",
                "learning_rate is 1e.39; .* at most 3.4e.38",
            ),
            ("stages[0].optimizer.learning_rate=.inf", "learning_rate is inf"),
            (f"model.width={10**400}", "width is inf"),
            ("watchdog.timeout_s=1e20", "timeout_s is 1e.20; use seconds from 0 to 1e9"),
            ("stages[0].optimizer.weight_decay=.nan", "weight_decay is nan"),
        )

    def test_paths_that_name_nothing_are_refused(self):
        self.refuses(
            ("data.path=''", "dc_tf convert"),
            ("data.path=", "data.path is ''"),
            ("data.path=~nobody-here/x", "no user here; write ./~nobody-here/x"),
        )

    def test_a_network_that_cannot_be_is_refused(self):
        self.refuses(
            ("model.width=0", "model.width is 0.0; use a positive"),
            ("model.trunk=resnet34", "'resnet34'; use vgg16, resnet18 or resnet50"),
            ("model.stem=small", "'small'; use imagenet with vgg16, whose first layers are fixed"),
            ("model.trunk=resnet18,model.stem=tiny", "'tiny'; use imagenet or small"),
            ("model.resolution=29", "resolution is 29; use at least 30 pixels"),
            ("model.trunk=resnet18,model.resolution=31", "is 31; use at least 32 pixels"),
            ("model.trunk=resnet50,model.stem=small,model.resolution=7", "use at least 8 pixels"),
            ("model.compute_dtype=float64", "use float32, bfloat16, float16 or auto"),
            ("model.exchange=all", "exchange is 'all'; use auto, gradients or factors"),
            ("model.exchange_gbps=-1", "exchange_gbps is -1.0; use the Gb/s"),
            ("model.exchange_dtype=float16", "'float16'; use float32 or bfloat16"),
        )

    def test_tasks_of_a_stage_that_cannot_be_are_refused(self):
        self.refuses(
            ("stages[1].rotations=3", r"stages\[1\].rotations is 3; use 1, 2 or 4"),
            ("stages[0].rotations=1", "more rotations, clusters or sub_clusters"),
            ("stages[1].rotations_together=true", "clusters = 1"),
            ("stages[0].name=deepercluster", "its own name"),
            ("stages[1].accumulate=0", r"stages.1.\.accumulate is 0; use at least 1"),
            ("stages[1].loss=flat", "'flat'; use hierarchical or product"),
            ("stages[0].loss=product", "use it with sub_clusters"),
            ("stages[1].clusterings=0", "clusterings is 0; use at least 1"),
            ("stages[0].clusterings=2", "clusterings is 2; use 1, or sub_clusters and"),
            ("stages[1].clusterings=2,stages[1].loss=product", "and the hierarchical loss"),
        )

    def test_heads_that_cannot_be_are_refused(self):
        self.refuses(
            ("stages[1].contrast.weight=2", r"weight is 2.0; use \[0, 1\]"),
            ("stages[1].contrast.temperature=0", r"temperature is 0.0; use \(0, 100\]"),
            ("stages[1].contrast.weight=0.5", "set projection.dim as well, as to 128, or use 0"),
            (
                "stages[1].contrast.weight=0.5,stages[1].projection.dim=8",
                "set views.global_views to at least 2, or use 0",
            ),
            ("stages[1].sampling=rows", "sampling is 'rows'; use clusters or images"),
            ("stages[1].projection.hidden=-1", "projection.hidden is -1; use at least 0"),
            ("stages[1].projection.hidden=8", r"hidden is 8; set stages\[1\].projection.dim"),
            ("stages[1].projection.dim=1", "projection.dim is 1; use 0, or at least 2"),
            ("stages[1].head=cosine", "'cosine'; use linear or prototypes"),
            ("stages[1].prototype_rotation=own", "'own'; use shared or mapped"),
            ("stages[1].temperature=0", r"temperature is 0.0; use \(0, 100\]"),
            ("stages[1].head=prototypes", "'prototypes'; set projection.dim, as to 128 as well"),
            ("stages[0].head=prototypes", "'prototypes'; set sub_clusters to at least 2 as well"),
            (f"{PROTOTYPES},stages[1].loss=product", "set loss to hierarchical"),
            ("stages[1].head=prototypes,stages[1].projection.dim=8", "clustering.whiten to false"),
            (
                PROTOTYPES.replace("spherical=true", "spherical=false"),
                "set clustering.spherical to true",
            ),
            ("stages[0].head_initializer=foo", "is 'foo'; use uniform or normal"),
        )

    def test_clusterings_that_cannot_be_are_refused(self):
        self.refuses(
            ("stages[1].clustering.whitening_dim=5000", "fc = 4096"),
            (
                "model.trunk=resnet18,model.width=0.25,stages[1].clustering.whitening_dim=129",
                "whitening_dim is 129; use 0 to the length of the features = 128",
            ),
            (
                "stages[1].projection.dim=8,stages[1].clustering.whitening_dim=9",
                "whitening_dim is 9; use 0 to projection.dim = 8",
            ),
            (
                "stages[1].clustering.whiten=false,stages[1].clustering.whitening_dim=9",
                "whitening_dim is 9; use 0 with whiten = false",
            ),
            ("stages[1].clustering.iterations=0", "clustering.iterations is 0; use at least 1"),
            (
                "stages[1].clustering.init=kmeans",
                "init=kmeans; use random, .*, k-means.. or previous",
            ),
            ("stages[1].clustering.precision=float16", "use float32, bfloat16 or auto"),
            (
                "stages[1].clustering.backend=torch",
                "clustering.backend=torch; use auto, tensorflow or faiss",
            ),
            (
                "stages[1].clustering.backend=faiss,stages[1].clustering.precision=bfloat16",
                "precision=bfloat16; use float32 or auto with backend=faiss",
            ),
            ("stages[1].clustering.store_dtype=int8", "use float16, bfloat16 or float32"),
            ("stages[1].clustering.tolerance=1", "clustering.tolerance=1.0; use a share"),
            (
                "stages[1].clustering.cache_gb=-1",
                "clustering.cache_gb=-1.0; use a number from 0 to 1e.09",
            ),
            ("stages[1].clustering.save_every_s=-1", "save_every_s is -1.0; use seconds from 0"),
        )

    def test_views_and_colours_that_cannot_be_are_refused(self):
        self.refuses(
            ("stages[0].augmentation.jitter=-1", r"augmentation.jitter is -1.0; use 0 to 10"),
            ("stages[0].augmentation.blur=1.5", r"augmentation.blur is 1.5; use a probability"),
            ("stages[0].views.global_views=0", r"stages.0..views.global_views is 0; use 1 to"),
            ("stages[0].views.local_views=-1", "local_views is -1; use 0 to"),
            ("stages[0].views.global_min_area=2", r"global_min_area is 2.0; use \(0, 1"),
            ("stages[0].views.global_max_area=0.01", r"global_max_area is 0.01; use 0.08 "),
            ("stages[0].views.local_max_area=0.01", r"local_max_area is 0.01; use 0.05 "),
            (
                "stages[0].views.local_views=2,stages[0].views.local_size=96",
                "local_size is 96; use model.resolution = 224, the only size of this trunk",
            ),
            (
                "model.trunk=resnet18,stages[0].views.local_views=2,stages[0].views.local_size=16",
                "local_size is 16; use 32 to model.resolution = 224",
            ),
        )

    def test_optimizers_that_cannot_be_are_refused(self):
        self.refuses(
            ("stages[0].optimizer.momentum=7", r"momentum is 7.0; use \[0, 1\)"),
            ("stages[0].optimizer.schedule=linear", "is 'linear'; use step or cosine"),
            ("stages[0].optimizer.decay_filter=none", "is 'none'; use all or kernels"),
            ("stages[0].optimizer.warmup_epochs=-1", "warmup_epochs is -1.0; use 0, or a positive"),
            (
                "stages[0].epochs=3,stages[0].optimizer.warmup_epochs=3",
                "warmup_epochs is 3.0; use .* below the 3 epochs of the stage",
            ),
            ("stages[0].optimizer.warmup_epochs=.nan", "warmup_epochs is nan"),
            (
                "stages[0].optimizer.schedule=cosine,stages[0].optimizer.drops=[3]",
                r"optimizer.drops is \[3\]; leave it out with schedule=cosine",
            ),
            (
                "stages[0].optimizer.final_learning_rate=0.01",
                "final_learning_rate is 0.01; use it with schedule=cosine only",
            ),
            (
                "stages[0].optimizer.schedule=cosine,stages[0].optimizer.final_learning_rate=1",
                "final_learning_rate is 1.0; use 0 to the learning_rate, ",
            ),
        )

    def test_files_that_are_not_settings_are_refused(self):
        for text, message in [("[1]", "expected a mapping"), ("a: [", "not valid YAML")]:
            with self.assertRaisesRegex(ConfigError, message):
                load([self.file(text)])
        with self.assertRaisesRegex(ConfigError, "cannot read"):
            load(["/nowhere.yaml"])
        with self.assertRaisesRegex(ConfigError, "not valid YAML"):
            load([self.file("a: !!python/object/apply:os.getcwd []")])

    def test_differences_name_what_changes_the_result_only(self):
        path = self.file()
        one = load([path])
        self.assertEmpty(differences(one, load([path], ["data.path=/other,log_every=1,threads=2"])))
        for harmless in ("save_every_s=600", "cache_gb=3"):
            other = load([path], [f"stages[1].clustering.{harmless}"])
            self.assertEmpty(differences(one, other))
        self.assertEmpty(
            differences(one, load([path], ["model.exchange=factors,model.exchange_gbps=100"]))
        )
        changed = differences(one, load([path], ["model.exchange_dtype=bfloat16"]))
        self.assertEqual(changed, ["model.exchange_dtype: float32, bfloat16"])
        changed = differences(one, load([path], ["stages[1].sub_clusters=7"]))
        self.assertEqual(changed, ["stages[1].sub_clusters: 80000, 7"])

    def test_types_take_the_place_of_auto_only(self):
        auto = "model.compute_dtype=auto,stages[0].clustering.precision=auto"
        one = load([self.file()], [auto])
        found = with_types(one, "bfloat16", ["bfloat16", "bfloat16"])
        types = [stage.clustering.precision for stage in found.stages]
        self.assertEqual((found.model.compute_dtype, types), ("bfloat16", ["bfloat16", "float32"]))
        self.assertEqual(with_types(found, "float32", ["float32"] * 2), found)
        self.assertEqual(with_types(one, "float32", []).stages, one.stages)

    def test_rounds_end_at_the_next_clustering_or_with_the_stage(self):
        stage = Stage(epochs=7, reassign_every=3)
        self.assertEqual(stage.rounds, 3)
        self.assertEqual(stage.round_of(4), (1, 3, 6))
        self.assertEqual(stage.round_of(6), (2, 6, 7))


if __name__ == "__main__":
    tf.test.main()
