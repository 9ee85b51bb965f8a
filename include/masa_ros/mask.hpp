// Copyright 2026 The masa_ros contributors
// SPDX-License-Identifier: Apache-2.0

// Masks of masa_ros/msg/TrackedInstance in C++: run lengths to pixels. Needs nothing but the
// standard library (C++14); docs/masks.md shows it with OpenCV.

#ifndef MASA_ROS__MASK_HPP_
#define MASA_ROS__MASK_HPP_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <type_traits>
#include <vector>

namespace masa_ros
{

/// Call `paint(x, y, length)` for every vertical run of pixels on the object.
/**
 * x and y are column and row in the image, length counts pixels downwards; runs come column by
 * column. Nothing is called for an instance without a mask.
 *
 * \param instance masa_ros::msg::TrackedInstance, or anything with its mask fields
 * \throws std::invalid_argument when the encoding is not known here, or the run lengths do not
 *   add up to the window
 */
template<typename Instance, typename Paint>
void for_each_run(const Instance & instance, Paint paint)
{
  constexpr int none = 0, coco_counts = 1;  // MASK_NONE, MASK_COCO_COUNTS
  if (instance.mask_encoding == none) {
    return;
  }
  if (instance.mask_encoding != coco_counts) {
    throw std::invalid_argument("masa_ros: a mask_encoding that is not known here");
  }
  const std::uint64_t height = instance.mask_height;
  const std::uint64_t size = height * instance.mask_width;
  std::uint64_t position = 0;
  for (const std::uint64_t run : instance.mask_counts) {
    if (run > size - position) {
      throw std::invalid_argument("masa_ros: the run lengths of a mask are longer than its window");
    }
    position += run;
  }
  if (position != size) {
    throw std::invalid_argument("masa_ros: the run lengths of a mask are shorter than its window");
  }
  position = 0;
  bool object = false;
  for (const std::uint64_t run : instance.mask_counts) {
    const std::uint64_t end = position + run;
    while (object && position < end) {  // a run may go on in the next column
      const std::uint64_t row = position % height;
      const std::uint64_t length = std::min(end - position, height - row);
      paint(
        static_cast<std::size_t>(instance.mask_x + position / height),
        static_cast<std::size_t>(instance.mask_y + row), static_cast<std::size_t>(length));
      position += length;
    }
    position = end;
    object = !object;
  }
}

/// Write `value` into an image at every pixel of the object; pixels outside the image are left out.
/**
 * \param instance masa_ros::msg::TrackedInstance
 * \param data first pixel of an image of one channel, such as cv::Mat::data
 * \param rows, columns size of the image
 * \param step elements from one row to the next, at least `columns`
 * \param value to write: 255, or a track id in an image of wider pixels
 * \throws std::invalid_argument see for_each_run
 */
template<typename Instance, typename Pixel>
void draw_mask(
  const Instance & instance, Pixel * data, std::size_t rows, std::size_t columns,
  std::size_t step, typename std::common_type<Pixel>::type value)
{
  for_each_run(
    instance, [&](std::size_t x, std::size_t y, std::size_t length) {
      if (x < columns) {
        for (const std::size_t end = std::min(y + length, rows); y < end; ++y) {
          data[y * step + x] = value;
        }
      }
    });
}

/// Return the pixels of the window, row by row, 255 on the object and 0 elsewhere.
template<typename Instance>
std::vector<std::uint8_t> window_pixels(const Instance & instance)
{
  const std::size_t width = instance.mask_width;
  std::vector<std::uint8_t> pixels(width * instance.mask_height, 0);
  for_each_run(
    instance, [&](std::size_t x, std::size_t y, std::size_t length) {
      std::uint8_t * pixel = &pixels[(y - instance.mask_y) * width + (x - instance.mask_x)];
      for (; length; --length, pixel += width) {
        *pixel = 255;
      }
    });
  return pixels;
}

}  // namespace masa_ros

#endif  // MASA_ROS__MASK_HPP_
