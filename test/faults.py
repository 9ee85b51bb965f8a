# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong around a tracker on a robot, done to the real node over real DDS.

Every fault is a row: what happens, what is promised, how to do it, and what the diagnostics must
have counted. ``test_faults`` runs them, ``tools/reliability.py`` makes a table of them.
"""

import faults_inside as inside
import faults_outside as outside
import faults_prompts as prompts
import faults_space as space
from fault_scene import Fault, run

__all__ = ['FAULTS', 'run']

_REFUSED = 'refused and counted by cause, one line in the log; the next good image is answered'
_SPACE = {'space.depth': 'raw', 'space.wait': 0}
_DEVA = {'method': 'deva', 'clip_frames': 3, 'max_objects': 10}
_SAM_TRACK = {'method': 'sam_track', 'held_frames': 5}
_SAM_PT = {'method': 'sam_pt', 'held_frames': 5, 'find': 'everything', 'max_objects': 10}
FAULTS = {
    'truncated': Fault('image data cut short or empty', _REFUSED, outside.truncated),
    'sizes': Fault('images of no or absurd size', _REFUSED, outside.impossible_sizes),
    'steps': Fault('`step` too small or absurd', _REFUSED, outside.wrong_steps),
    'oversized': Fault('more data than the image needs', 'tracked', outside.longer_than_needed),
    'encodings': Fault(
        'every encoding of sensor_msgs', 'converted, or refused by name', outside.every_encoding
    ),
    'new_size': Fault(
        'another size in every image, down to 1 x 1', 'tracked', outside.changing_size
    ),
    'new_encoding': Fault('another encoding in every image', 'tracked', outside.changing_encoding),
    'compressed': Fault(
        'compressed garbage',
        _REFUSED,
        outside.compressed_garbage,
        {'image_transport': 'compressed'},
    ),
    'no_stamps': Fault(
        'stamps at zero', 'tracked by the time of arrival, counted', outside.without_stamps
    ),
    'future': Fault(
        'a stamp in the year 2033', 'tracks are reset when time is back', outside.future
    ),
    'loop': Fault(
        'stamps jump back: a bag that loops', 'tracks are reset, counted', outside.backwards
    ),
    'loop_continue': Fault(
        'the same with `on_time_jump: continue`',
        'tracks go on, counted',
        outside.backwards,
        {'on_time_jump': 'continue'},
    ),
    'disorder': Fault('images up to half a second late', 'dropped and counted', outside.disorder),
    'two_publishers': Fault(
        'two publishers on one topic', 'diagnostics warn', outside.two_publishers
    ),
    'overload': Fault(
        'images ten times too fast', 'newest first, the rest counted', outside.overload
    ),
    'lost': Fault(
        'images that the network loses (best effort)',
        'counted, diagnostics warn',
        outside.lost_on_the_way,
    ),
    'silence': Fault('no image any more', 'diagnostics warn', outside.silence),
    'restarts': Fault(
        'the camera driver restarts', 'tracking goes on', outside.publisher_restarts
    ),
    'hangs': Fault(
        'a subscriber of the tracks and the overlay hangs',
        'nothing is held up',
        outside.never_reads,
    ),
    'killed': Fault('a DDS participant is killed', 'nothing is held up', outside.killed_listener),
    'calibration': Fault(
        'camera_info of NaN or another size', 'not passed on, counted', outside.bad_calibration
    ),
    'model': Fault(
        'the model raises',
        'counted, the node goes on',
        inside.model_fails,
        load=inside.breaking(lambda: RuntimeError('broken')),
    ),
    'gpu_to_cpu': Fault(
        'GPU out of memory or gone',
        'goes on on the CPU with the same tracks',
        inside.moves_to_cpu,
        {'device': 'gpu'},
        inside.breaking(inside.out_of_memory, 'gpu'),
    ),
    'gpu_off': Fault(
        'the same with `on_device_failure: deactivate`',
        'unconfigured, can be started again',
        inside.deactivates,
        {'device': 'gpu', 'on_device_failure': 'deactivate'},
        inside.breaking(inside.out_of_memory, 'gpu'),
    ),
    'engine': Fault(
        'an engine fails at run time',
        'PyTorch runs instead, no image is lost',
        inside.engine_breaks,
        {'runtime': 'compile', 'camera_size': '320x240'},
        inside.with_fragile_engines,
    ),
    'mistake': Fault(
        'a programming mistake in the step of a camera',
        'counted, reported as ERROR, the node goes on',
        inside.mistake,
    ),
    'shrinks': Fault(
        'the image becomes smaller while lost tracks and pictures are published',
        'tracks and masks lie inside the image',
        inside.shrinks,
        {'publish_lost': True},
    ),
    'weights': Fault(
        'the weights file is garbage when the node is configured again',
        'stays unconfigured with one line; starts when the file is right',
        inside.replaced_weights,
    ),
    'combined': Fault(
        'refused images, disorder and no stamps, mixed', _REFUSED, outside.everything
    ),
    'deva_sizes': Fault(
        '`deva` with clips of three: another size in every image, down to 1 x 1',
        'tracked; open images are answered first',
        outside.changing_size,
        _DEVA,
    ),
    'deva_loop': Fault(
        'the same: stamps jump back',
        'open images are answered, tracks are reset, counted',
        outside.backwards,
        _DEVA,
    ),
    'deva_combined': Fault(
        'the same: refused images, disorder and no stamps, mixed',
        _REFUSED,
        outside.everything,
        _DEVA,
    ),
    'deva_model': Fault(
        'the same: the model raises',
        'counted, the node goes on',
        inside.model_fails,
        _DEVA,
        inside.breaking(lambda: RuntimeError('broken')),
    ),
    'deva_gpu': Fault(
        '`deva`: GPU out of memory or gone',
        'goes on on the CPU with the same tracks',
        inside.moves_to_cpu,
        _DEVA | {'clip_frames': 1, 'device': 'gpu'},
        inside.breaking(inside.out_of_memory, 'gpu'),
    ),
    'deva_crowd': Fault(
        '`deva`: more detections than `max_objects`',
        'the best are tracked, the others counted',
        inside.crowd,
        _DEVA | {'clip_frames': 1, 'max_objects': 2},
    ),
    'prompts_bad': Fault(
        '`sam_track`: clicks outside, empty and broken masks, ids that do not exist',
        'each is answered by what is wrong with it, counted',
        prompts.bad,
        _SAM_TRACK,
    ),
    'prompts_gone': Fault(
        'the same: a prompt for an image that is gone',
        'refused by its age, counted; one for an image that is held is followed',
        prompts.gone,
        _SAM_TRACK,
    ),
    'prompts_flood': Fault(
        'the same: more prompts than can be followed',
        'each is answered; images are tracked between them',
        prompts.flood,
        _SAM_TRACK | {'max_objects': 3},
    ),
    'prompts_size': Fault(
        'the same: prompts while the size of the images changes',
        'followed where the image is, or refused; the objects are scaled',
        prompts.changing_size,
        _SAM_TRACK,
    ),
    'prompts_mistake': Fault(
        'the same: a mistake in the program while a prompt is followed',
        'contained, ERROR; images go on',
        prompts.mistake,
        _SAM_TRACK,
    ),
    'deva_nothing': Fault(
        '`deva`: nothing is detected for a long time',
        'objects are forgotten after `max_missed` looks, the memory is empty',
        inside.nothing_found,
        _DEVA | {'clip_frames': 1, 'detection_every': 1, 'max_missed': 1},
    ),
    'sam_pt_sizes': Fault(
        '`sam_pt`: another size in every image, down to 1 x 1',
        'tracked; the objects are scaled',
        outside.changing_size,
        _SAM_PT,
    ),
    'sam_pt_loop': Fault(
        'the same: stamps jump back', 'tracks are reset, counted', outside.backwards, _SAM_PT
    ),
    'sam_pt_late': Fault(
        'the same with a window of which every image waits: stamps jump back',
        'open images are answered, tracks are reset, counted',
        outside.backwards,
        _SAM_PT | {'reinit': 'B', 'horizon': 4},
    ),
    'sam_pt_combined': Fault(
        'the same: refused images, disorder and no stamps, mixed',
        _REFUSED,
        outside.everything,
        _SAM_PT,
    ),
    'sam_pt_model': Fault(
        'the same: the model raises',
        'counted, the node goes on',
        inside.model_fails,
        _SAM_PT,
        inside.breaking(lambda: RuntimeError('broken')),
    ),
    'sam_pt_gpu': Fault(
        'the same: GPU out of memory or gone',
        'goes on on the CPU with the same tracks',
        inside.moves_to_cpu,
        _SAM_PT | {'device': 'gpu', 'weights': '', 'score_threshold': -1.0},
        inside.breaking(inside.out_of_memory, 'gpu'),
    ),
    'sam_pt_crowd': Fault(
        'the same: more detections than `max_objects`',
        'the best are tracked, the others counted',
        inside.crowd,
        _SAM_PT | {'max_objects': 2},
    ),
    'sam_pt_prompts': Fault(
        'the same: prompts while the size of the images changes',
        'followed where the image is, or refused; the objects are scaled',
        prompts.changing_size,
        _SAM_PT | {'find': 'nothing'},
    ),
    'space_bad': Fault(
        'depth of colours, cut short, or of another view',
        'tracked; no position, counted',
        space.bad_depth,
        _SPACE,
    ),
    'space_silence': Fault(
        'depth is out of step, then stops',
        'tracked without delay; positions are predicted or have a reason, counted',
        space.silence,
        _SPACE,
    ),
    'space_calibration': Fault(
        'positions with a camera_info of NaN, of another size, of no known lens',
        'tracked; no position, counted',
        space.bad_calibration,
        _SPACE,
    ),
    'space_units': Fault(
        'depth in millimetres where metres are expected',
        'tracked; no position where it is too far, never an error',
        space.other_units,
        _SPACE,
    ),
    'space_transform': Fault(
        'no transform to `space.target_frame`, nor from the depth to the image',
        'tracked; positions without motion, or none, counted',
        space.no_transform,
        _SPACE | {'space.target_frame': 'map', 'space.registered': False},
    ),
    'space_mistake': Fault(
        'a programming mistake in what makes positions',
        'contained, ERROR; images go on',
        space.mistake,
        _SPACE,
    ),
}
