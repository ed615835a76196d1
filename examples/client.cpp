// Detects objects with OpenCV alone, in the ONNX file of `export.py --include onnx --opset 12`.
//
//     g++ -O2 -std=c++17 client.cpp -o client $(pkg-config --cflags --libs opencv4)
//     ./client best.onnx picture.jpg 640
//
// The number is the export's --imgsz. Prints `class x1 y1 x2 y2 score` a line, in pixels of the picture, the most
// confident first.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <string>
#include <vector>

constexpr float CONFIDENCE = 0.25f, OVERLAP = 0.45f;
constexpr double APART = 10000;  // pixels between classes, beyond any box: only boxes of one class overlap

void detect(cv::dnn::Net& net, const cv::Mat& picture, int side) {
    const double scale = std::min(double(side) / picture.rows, double(side) / picture.cols);
    const cv::Size inner(std::max(cvRound(picture.cols * scale), 1), std::max(cvRound(picture.rows * scale), 1));
    // an odd pixel goes to the right, or below
    const cv::Point corner((side - inner.width) / 2, (side - inner.height) / 2);
    cv::Mat canvas(side, side, CV_8UC3, cv::Scalar::all(114)), resized;
    cv::resize(picture, resized, inner);
    resized.copyTo(canvas(cv::Rect(corner, inner)));
    net.setInput(cv::dnn::blobFromImage(canvas, 1 / 255.0, cv::Size(), cv::Scalar(), true));
    const cv::Mat output = net.forward();  // (1, N, 5 + classes): centre, size, objectness, scores of the classes
    if (output.dims != 3)
        CV_Error(cv::Error::StsBadArg, "it has no list of predictions; export without --raw and --nms");
    std::vector<cv::Rect2d> boxes;
    std::vector<float> scores;
    std::vector<int> classes, kept;
    for (int i = 0; i < output.size[1]; ++i) {
        const float* row = output.ptr<float>(0, i);
        const int best = int(std::max_element(row + 5, row + output.size[2]) - row) - 5;
        const float score = row[4] * row[5 + best];
        if (!(score > CONFIDENCE)) continue;
        boxes.emplace_back(row[0] - row[2] / 2 + APART * best, row[1] - row[3] / 2, row[2], row[3]);
        scores.push_back(score);
        classes.push_back(best);
    }
    cv::dnn::NMSBoxes(boxes, scores, CONFIDENCE, OVERLAP, kept);
    const double left = (side - picture.cols * scale) / 2, top = (side - picture.rows * scale) / 2;
    for (const int i : kept) {
        const cv::Rect2d box = boxes[i] - cv::Point2d(APART * classes[i] + left, top);
        const auto x = [&](double at) { return std::clamp(at / scale, 0.0, double(picture.cols)); };
        const auto y = [&](double at) { return std::clamp(at / scale, 0.0, double(picture.rows)); };
        std::printf("%d %.2f %.2f %.2f %.2f %.4f\n", classes[i], x(box.x), y(box.y), x(box.br().x), y(box.br().y),
                    scores[i]);
    }
}

int main(int count, char** words) {
    const int side = count == 4 ? std::atoi(words[3]) : 0;
    if (side <= 0) return std::fputs("usage: client best.onnx picture.jpg 640\n", stderr), 1;
    try {
        const cv::Mat picture = cv::imread(words[2]);
        if (picture.empty()) return std::fprintf(stderr, "error: cannot read picture '%s'\n", words[2]), 1;
        cv::dnn::Net net = cv::dnn::readNetFromONNX(words[1]);
        detect(net, picture, side);
    } catch (const cv::Exception& error) {
        std::string reason = error.err;
        std::replace(reason.begin(), reason.end(), '\n', ' ');
        return std::fprintf(stderr, "error: '%s' cannot run at %d: %s\n", words[1], side, reason.c_str()), 1;
    }
}
